"""The way to the Triton kernels: off unless `ECA_MULTI_TRITON=1`, and nothing is imported or registered until then.

No GPU has timed them. What the kernels do is in _triton_kernels.py; this module says where they serve, and is what the
autograd.Function calls. TensorFlow imported before Triton crashes it (see docs/frameworks.md).
"""

import functools
import os
from types import ModuleType

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDEST = 65  # taps of a kernel: the band of a tile's channels is then as large as a tile


def available(x: Tensor, weight: Tensor | None = None) -> bool:
    """Whether `forward` and `backward` take x (N, C, *S), and the weight (1, 1, k) or (C, 1, k) if that is given."""
    if os.environ.get("ECA_MULTI_TRITON") != "1" or x.ndim < 3 or x.dtype not in DTYPES:
        return False
    if weight is not None and (weight.dtype not in DTYPES or weight.shape[2] > WIDEST):
        return False
    if not 0 < x.numel() < len(x) << 31:  # offsets in a sample are of 32 bits
        return False
    if x.device.type not in ("cuda", "cpu") or not (x.is_contiguous() or x.movedim(1, -1).is_contiguous()):
        return False
    return _installed() and (x.is_cuda or _interpreted())


def forward(x: Tensor, weight: Tensor, padding: str, gate: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return y like x, the means and the gates (N, C) in float32. `weight` is (1, 1, k) or (C, 1, k)."""
    result: tuple[Tensor, Tensor, Tensor] = _operators().forward(x, weight, padding, gate)
    return result


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, pooled: Tensor, g: Tensor, dg: Tensor | None, padding: str, gate: str
) -> tuple[Tensor, Tensor]:
    """Return dx like x and dw like weight, for the cotangents dy of y and dg (N, C) of the gates."""
    result: tuple[Tensor, Tensor] = _operators().backward(dy, x, weight, pooled, g, dg, padding, gate)
    return result


@functools.cache
def _installed() -> bool:
    try:
        import triton  # noqa: F401  (only to see whether it is there)
    except ModuleNotFoundError as error:
        if error.name != "triton":  # Triton is there and something it needs is not: say that instead
            raise
        return False
    return True


def _interpreted() -> bool:
    """Whether Triton runs kernels on the CPU, as its tests do."""
    from ._triton_kernels import INTERPRETED

    return bool(INTERPRETED)


def _operators() -> ModuleType:
    from . import _triton_ops

    return _triton_ops
