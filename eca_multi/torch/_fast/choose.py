"""Which code computes an eager call: the tensor lines, the fused backward pass, or Triton's kernels."""

import torch
from torch import Tensor

from eca_multi.torch._tensor_lines import Gate

from . import triton_route
from .feature_map import layout_of

SMALL = 1 << 15  # elements of x; below, autograd's own engine is quicker than a backward in Python


def is_faster(x: Tensor, weight: Tensor, gate: Gate, axis: int, residual: Tensor | None = None) -> bool:
    """Whether `fused_eca` is faster for tensors in eager mode; docs/speed.md has the measurements."""
    if not isinstance(gate, str):
        return False
    if not x.is_cpu:
        # Triton's kernels add nothing, and a sum after them would round a half-precision y twice.
        rounds_once = residual is None or x.dtype == torch.float32
        return rounds_once and is_for_triton(x, weight.reshape(-1, weight.shape[-1]), axis)
    if x.numel() < SMALL:
        return False
    differentiated = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if residual is not None and layout_of(residual, axis) != layout_of(x, axis):
        return False
    # Forward in float32, the tensor lines allocate y alone.
    return (differentiated or x.dtype.itemsize == 2) and layout_of(x, axis) is not None


def is_for_triton(x: Tensor, w: Tensor, axis: int) -> bool:
    return axis == 1 and triton_route.available(x, w.unsqueeze(1))
