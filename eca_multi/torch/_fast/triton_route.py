"""The way to the Triton kernels: off unless `ECA_MULTI_TRITON=1`, and nothing is imported or registered until then.

No GPU has timed them. triton_kernels.py says what the kernels do; this module says where they serve, and FusedECA calls
them through it. TensorFlow imported before Triton crashes it (see docs/frameworks.md).
"""

import functools
import os

import torch
from torch import Tensor

from .triton_tile import WIDEST

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
    return _is_installed() and (x.is_cuda or _is_interpreted())


def forward(x: Tensor, weight: Tensor, padding: str, gate: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return y like x, the means and the gates (N, C) in float32. `weight` is (1, 1, k) or (C, 1, k)."""
    from . import triton_operators

    result: tuple[Tensor, Tensor, Tensor] = triton_operators.forward(x, weight, padding, gate)
    return result


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, pooled: Tensor, g: Tensor, dg: Tensor | None, padding: str, gate: str
) -> tuple[Tensor, Tensor]:
    """Return dx like x and dw like weight, for the cotangents dy of y and dg (N, C) of the gates."""
    from . import triton_operators

    result: tuple[Tensor, Tensor] = triton_operators.backward(dy, x, weight, pooled, g, dg, padding, gate)
    return result


@functools.cache
def _is_installed() -> bool:
    try:
        import triton  # noqa: F401  (only to see whether it is installed)
    except ModuleNotFoundError as error:
        if error.name != "triton":  # Triton is installed and lacks something that it needs: raise that error
            raise
        return False
    return True


def _is_interpreted() -> bool:
    """Whether Triton runs kernels on the CPU, as its tests do."""
    from .triton_kernels import INTERPRETED

    return bool(INTERPRETED)
