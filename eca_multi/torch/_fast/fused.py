"""ECA with a backward pass of its own, for plain tensors in eager mode on the CPU (and on request in Triton).

Autograd takes the gradient of the tensor lines through several tensors of the feature map's size. Here forward writes y
and backward writes dx, and no other tensor has that size.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from eca_multi.torch._eager import is_wrapped
from eca_multi.torch._tensor_lines import Shapes, attend, convolve, named_gate, pad_channels

from . import triton_route
from .choose import is_for_triton
from .feature_map import FeatureMap, layout_of


def fused_eca(
    x: Tensor, w: Tensor, padding: str, gate: str, axis: int, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return y like x, and the gates (N, C) in float32. w is one kernel (1, k), or one per channel (C, k)."""
    # Without a gradient `apply`, which binds each argument by its name, would take as long as a small map.
    is_differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, w, residual))
    run = FusedECA.apply if is_differentiated else FusedECA.forward
    y, g, _ = run(x, w, residual, padding, gate, axis)
    return y, g


def unfused_eca(
    x: Tensor, w: Tensor, residual: Tensor | None, padding: str, gate: str, axis: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the gates and the means by the tensor lines, whose operations every transform knows."""
    shapes = Shapes.of(x.shape, axis, w.shape[1])
    return attend(x, w.unsqueeze(1), padding, gate, shapes, residual=residual)


class FusedECA(torch.autograd.Function):
    """All three outputs (y, gates, means) take a gradient: otherwise the second derivative would lack terms.

    The residual's gradient is dy, so nothing of it is kept.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, w: Tensor, residual: Tensor | None, padding: str, gate: str, axis: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        layout = None if is_wrapped(x, w, residual) else layout_of(x, axis)
        if layout is None:
            return unfused_eca(x, w, residual, padding, gate, axis)
        if is_for_triton(x, w, axis):
            y, pooled, g = triton_route.forward(x, w.unsqueeze(1), padding, gate)
            return y if residual is None else y.add_(residual), g, pooled
        x_map = FeatureMap.of(x, axis, layout)
        pooled = x_map.sums() / x_map.positions
        g = named_gate(gate, convolve_plain(pooled, w.to(x_map.acc), padding))
        y = torch.empty_like(x)
        if residual is None:
            x_map.scaled(g, None, FeatureMap.of(y, axis, layout))
        else:
            if layout_of(residual, axis) != layout:
                residual = torch.empty_like(x).copy_(residual)
            x_map.scaled_onto(g, FeatureMap.of(residual, axis, layout), FeatureMap.of(y, axis, layout))
        return y, g, pooled

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, w, _, *ctx.options = inputs
        ctx.save_for_backward(x, w, *output[1:])
        ctx.save_for_forward(x, w, *output[1:])
        ctx.set_materialize_grads(False)  # the gates and the means seldom have a gradient

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dg: Tensor | None, dpooled: Tensor | None) -> tuple[Tensor | None, ...]:
        x, w, g, pooled = ctx.saved_tensors
        padding, gate, axis = ctx.options
        dy = torch.zeros_like(x) if dy is None else dy
        dresidual = dy if ctx.needs_input_grad[2] else None
        # Dynamo may meet this where forward ran outside of its graph.
        is_unfused = torch.compiler.is_compiling() or is_wrapped(x, w, dy, dg, dpooled)
        layout = None if is_unfused else layout_of(x, axis)
        # Under vmap, or where the gradient is differentiated again, take the gradient of the tensor lines.
        if layout is None or torch.is_grad_enabled():
            _, pull = torch.func.vjp(lambda x, w: unfused_eca(x, w, None, *ctx.options), x, w)  # type: ignore[misc]
            cotangents = (dy, *(torch.zeros_like(g) if d is None else d for d in (dg, dpooled)))
            return (*pull(cotangents), dresidual, None, None, None)
        if is_for_triton(x, w, axis):  # without dpooled: `fused_eca` does not return the means
            dg = torch.zeros_like(g) if dg is None else dg
            gradients = triton_route.backward(dy, x, w.unsqueeze(1), pooled, g, dg, padding, gate)
            return gradients[0], gradients[1].squeeze(1), dresidual, None, None, None
        if layout_of(dy, axis) != layout:  # in another order, or expanded, as the gradient of a sum is
            dy = torch.empty_like(x).copy_(dy)
        x_map, dy_map = FeatureMap.of(x, axis, layout), FeatureMap.of(dy, axis, layout)
        dgates = x_map.sums(dy_map)
        dlogits = along_slope(gate, g, dgates if dg is None else dgates + dg)
        dmeans, dw = convolve_backward(dlogits, pooled, w.to(g.dtype), padding)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            dmeans = dmeans if dpooled is None else dmeans + dpooled
            dy_map.scaled(g, dmeans / x_map.positions, FeatureMap.of(dx, axis, layout))
        return dx, dw.to(w.dtype), dresidual, None, None, None

    @staticmethod
    def jvp(
        ctx: Any, dx: Tensor | None, dw: Tensor | None, dresidual: Tensor | None, *_: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, w, g, pooled = ctx.saved_tensors
        padding, gate, axis = ctx.options
        dx = torch.zeros_like(x) if dx is None else dx
        shapes = Shapes.of(x.shape, axis, w.shape[1])
        dpooled = dx.mean(shapes.axes, dtype=g.dtype)
        dlogits = convolve(dpooled, w.to(g.dtype), padding)
        if dw is not None:
            dlogits = dlogits + convolve(pooled, dw.to(g.dtype), padding)
        dg = along_slope(gate, g, dlogits)
        product = dx * g.reshape(shapes.gate) + x * dg.reshape(shapes.gate)
        return (product if dresidual is None else product + dresidual).to(x.dtype), dg, dpooled


# `apply` reads the signature in every call, and that takes as long as a pass over a small map.
FusedECA.forward.__signature__ = inspect.signature(FusedECA.forward)  # type: ignore[attr-defined]


# --- the convolution over the channels and its gradients, for plain tensors outside of autograd, in place -----------


def convolve_plain(pooled: Tensor, w: Tensor, padding: str) -> Tensor:
    """`convolve` of the tensor lines, in fewer operations."""
    return _correlate(pad_channels(pooled, w.shape[1] // 2, padding), [*w.T])


def convolve_backward(dlogits: Tensor, pooled: Tensor, w: Tensor, padding: str) -> tuple[Tensor, Tensor]:
    """The gradients of `convolve` by the means and by w. (On the CPU conv1d's take up to twenty times as long.)"""
    channels, k = pooled.shape[1], w.shape[1]
    half = k // 2
    is_shared = len(w) == 1
    means, dz = pad_channels(pooled, half, padding), pad_channels(dlogits, half, padding)
    products = (dlogits * means[:, j : j + channels] for j in range(k))
    others = [axis for axis in range(pooled.dim()) if axis != 1]
    dw = torch.stack([product.sum() if is_shared else product.sum(others) for product in products], -1)
    # Channel c is read by channel c + j - half through its tap k - 1 - j.
    taps = w.T if is_shared else pad_channels(w.T, half, padding)
    back = [taps[k - 1 - j] if is_shared else taps[k - 1 - j, j : j + channels] for j in range(k)]
    kept = (1,) * (pooled.dim() - 2)
    return _correlate(dz, [tap.view(-1, *kept) for tap in back] if kept else back), dw.view(w.shape)


def along_slope(gate: str, g: Tensor, d: Tensor) -> Tensor:
    """d times the derivative of the gate, from the gate's value."""
    if gate == "hard_sigmoid":
        return (d / 6).masked_fill((g <= 0) | (g >= 1), 0)  # not a product: 0 * inf is NaN, and NaN has a slope
    return g * (1 - g / 2 if gate == "2sigmoid" else 1 - g) * d


def _correlate(padded: Tensor, taps: list[Tensor]) -> Tensor:
    channels = padded.shape[1] - len(taps) + 1
    result = padded[:, :channels] * taps[0]
    for j, tap in enumerate(taps[1:], 1):
        result.addcmul_(padded[:, j : j + channels], tap)
    return result
