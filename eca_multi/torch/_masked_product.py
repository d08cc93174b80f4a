"""The product under a mask. NaN or infinity in the padding must not reach the gradient of the gates.

A choice between two products takes four times as long in eager mode, so the product has a derivative of its own there.
Compilers fuse the choice.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ._eager import is_eager, is_wrapped


def masked_product(x: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
    """Return x * scale, in the wider dtype.

    A position that is neither valid nor finite counts as 0 for the gradient of scale: the loss does not look there,
    and a product would give 0 * NaN.
    """
    if is_eager(x, scale):
        product: Tensor = MaskedProduct.apply(x, scale, valid)  # type: ignore[no-untyped-call]
        return product
    counts = _counts(x, valid)
    return torch.where(counts, torch.where(counts, x, 0) * scale, x * scale.detach())


class MaskedProduct(torch.autograd.Function):
    """The backward pass consists of operations that have derivatives, so every further derivative exists."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale, valid)
        ctx.save_for_forward(x, scale, valid)
        return x * scale

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, scale, valid = ctx.saved_tensors
        dx = (dy * scale).to(x.dtype) if ctx.needs_input_grad[0] else None
        dscale = _by_scale(x, scale, valid, dy) if ctx.needs_input_grad[1] else None
        return dx, dscale, None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dscale: Tensor | None, _: None) -> Tensor:
        x, scale, valid = ctx.saved_tensors
        along_x = torch.zeros_like(scale) if dx is None else dx * scale
        return along_x + (torch.zeros_like(x) if dscale is None else _counted(x, valid) * dscale)


def _by_scale(x: Tensor, scale: Tensor, valid: Tensor, dy: Tensor) -> Tensor:
    # Reading a number waits for a GPU, and no transform or compiler can read one.
    may_read = x.is_cpu and is_eager(x, dy) and not torch.is_grad_enabled() and not is_wrapped(x, scale, valid, dy)
    if may_read:
        plain = (dy * x).sum_to_size(scale.shape)
        if plain.isfinite().all():  # then all of the padding is finite
            return plain
    return (dy * _counted(x, valid)).sum_to_size(scale.shape)


def _counted(x: Tensor, valid: Tensor) -> Tensor:
    return torch.where(_counts(x, valid), x, 0)


def _counts(x: Tensor, valid: Tensor) -> Tensor:
    return valid | (x.abs() < math.inf)  # isfinite() makes five maps
