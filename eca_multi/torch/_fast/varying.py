"""ECA whose gates vary along a sequence or over frames, with a backward pass that keeps x and no other map.

Autograd would keep what each tensor line made, and on a plain sequence means, logits and gates are as large as x. Here
backward computes them again from x: a sum and k products, beside what the convolution around the layer costs.
"""

import math
from typing import Any

import torch
from torch import Tensor

from eca_multi.torch._eager import is_wrapped
from eca_multi.torch._tensor_lines import (
    Gate,
    Shapes,
    accumulator,
    attend,
    convolve,
    counts,
    named_gate,
    running,
    sums_of,
)

from .choose import SMALL
from .fused import along_slope, convolve_backward


def keeps_less(x: Tensor, weight: Tensor, gate: Gate, residual: Tensor | None) -> bool:
    """Whether `varying_eca` keeps less than autograd for tensors in eager mode."""
    differentiated = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return differentiated and isinstance(gate, str) and x.numel() >= SMALL and not is_wrapped(x, weight, residual)


def varying_eca(
    x: Tensor, w: Tensor, padding: str, gate: str, shapes: Shapes, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return y like x, and the gates (N, C, *kept) in float32. w is one kernel (1, k), or one per channel (C, k)."""
    y, g = VaryingECA.apply(x, w, residual, padding, gate, shapes)  # type: ignore[no-untyped-call]
    return y, g


def _lines(
    x: Tensor, w: Tensor, residual: Tensor | None, padding: str, gate: str, shapes: Shapes, eager: bool = False
) -> tuple[Tensor, Tensor]:
    y, g, _ = attend(x, w.unsqueeze(1), padding, gate, shapes, eager=eager, residual=residual)
    return y, g


class VaryingECA(torch.autograd.Function):
    """Both outputs (y, gates) take a gradient. The residual's is dy, so nothing of the residual is kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, residual: Tensor | None, padding: str, gate: str, shapes: Shapes
    ) -> tuple[Tensor, Tensor]:
        ctx.options = padding, gate, shapes
        ctx.save_for_backward(x, w)
        ctx.set_materialize_grads(False)  # the gates seldom have a gradient
        return _lines(x, w, residual, padding, gate, shapes, eager=True)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dg: Tensor | None) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        padding, gate, shapes = ctx.options
        dy = torch.zeros_like(x) if dy is None else dy
        dresidual = dy if ctx.needs_input_grad[2] else None
        # Under vmap, or where the gradient is differentiated again, take the gradient of the tensor lines.
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or is_wrapped(x, w, dy, dg):
            (_, g), pull = torch.func.vjp(lambda x, w: _lines(x, w, None, *ctx.options), x, w)  # type: ignore[misc]
            return (*pull((dy, torch.zeros_like(g) if dg is None else dg)), dresidual, None, None, None)
        acc = accumulator(x, w)
        pooled = sums_of(x, shapes, acc)
        count = _count(x, pooled, shapes)
        pooled = pooled / count
        g = named_gate(gate, convolve(pooled, w.to(acc), padding))
        product = dy * x if x.dtype == acc else dy.to(acc).mul_(x)
        dgates = product.sum(shapes.axes) if shapes.axes else product
        dgates = dgates.movedim(shapes.place, 1)
        dlogits = along_slope(gate, g, dgates if dg is None else dgates + dg)
        dmeans, dw = convolve_backward(dlogits, pooled, w.to(acc), padding)
        dx = None
        if ctx.needs_input_grad[0]:
            scale, shift = (_beside(part, shapes) for part in (g, _backwards(dmeans / count, shapes)))
            dx = torch.addcmul(shift, dy, scale) if x.dtype == acc else dy.to(acc).mul_(scale).add_(shift).to(x.dtype)
        return dx, dw.to(w.dtype), dresidual, None, None, None


def _count(x: Tensor, sums: Tensor, shapes: Shapes) -> Tensor | int:
    positions = math.prod([x.shape[i] for i in shapes.axes])
    return positions if shapes.running is None else counts(sums, shapes.running, positions)


def _backwards(dsums: Tensor, shapes: Shapes) -> Tensor:
    """The gradient of the sum up to each position: the sum from each position on."""
    if shapes.running is None:
        return dsums
    return running(dsums.flip(shapes.running), shapes.running).flip(shapes.running)


def _beside(part: Tensor, shapes: Shapes) -> Tensor:
    return part.movedim(1, shapes.place).reshape(shapes.gate)
