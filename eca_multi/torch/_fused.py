"""ECA with a backward pass of its own, for plain tensors in eager mode on the CPU.

Autograd takes the gradient of the usual code through several tensors of the feature map's size, each in fresh memory,
whose pages cost more than the arithmetic. Here forward writes y, backward writes dx, and nothing else is of that size.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.jit import is_tracing  # type: ignore[attr-defined]  # listed nowhere
from torch.nn.grad import conv1d_input, conv1d_weight
from torch.nn.parameter import Parameter

from ._gate import GATES, SLOPES, Gate, convolve

Gradients = tuple[Tensor | None, Tensor | None]

PLAIN = (Tensor, Parameter)  # a DTensor, a fake or a user's subclass takes the native code
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # float64 is for references, which are the native code
SMALL = 1 << 15  # elements of x; below, autograd's own engine is quicker than a backward in Python
BUFFER = 1 << 20  # elements of the working memory: 4 MB, which stay in the cache


def is_faster(x: Tensor, weight: Tensor, gate: Gate, axis: int) -> bool:
    """Where the code below is taken. The measurements are in docs/speed.md."""
    return (
        x.numel() >= SMALL
        and isinstance(gate, str)
        and type(x) in PLAIN
        and type(weight) in PLAIN
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and weight.dtype in DTYPES
        and not torch.compiler.is_compiling()
        and not is_tracing()  # type: ignore[no-untyped-call]
        and _layout(x, axis) is not None
    )


def fused_eca(x: Tensor, weight: Tensor, padding: str, gate: str, axis: int) -> tuple[Tensor, Tensor]:
    """Return y like x, and the gates (N, C) in float32. `weight` is (1, 1, k) or (C, 1, k)."""
    y, g, _ = FusedECA.apply(x, weight, padding, gate, axis)  # type: ignore[no-untyped-call]
    return y, g


def native(x: Tensor, weight: Tensor, padding: str, gate: str, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the gates and the means: the layer in operations that every transform knows."""
    axes = [i for i in range(1, x.ndim) if i != axis]
    acc = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    pooled = x.mean(axes, dtype=acc)
    g = GATES[gate](convolve(pooled, weight.to(acc).squeeze(1), padding))
    return (x * _spread(g, x, axis)).to(x.dtype), g, pooled


def _spread(g: Tensor, x: Tensor, axis: int) -> Tensor:
    return g.reshape([x.shape[i] if i in (0, axis) else 1 for i in range(x.ndim)])


class _Map(NamedTuple):
    """A feature map as it lies in memory: (N, C, S), or (N, S, C) where its channels are last (`columns`)."""

    data: Tensor
    columns: bool
    shape: torch.Size
    axis: int

    @property
    def positions(self) -> int:
        return self.data.shape[1 if self.columns else 2]

    @property
    def acc(self) -> torch.dtype:
        return torch.promote_types(self.data.dtype, torch.float32)

    def like_x(self, data: Tensor) -> Tensor:
        """A result of the same layout, in x's shape."""
        order = self.shape
        if not self.columns:
            lead = data.view(order[0], order[self.axis], *order[1 : self.axis], *order[self.axis + 1 :])
            return lead if self.axis == 1 else lead.movedim(1, self.axis)
        last = data.view(order[0], *order[1 : self.axis], *order[self.axis + 1 :], order[self.axis])
        return last.movedim(-1, self.axis)


class FusedECA(torch.autograd.Function):
    """All three outputs (y, gates, means) have a gradient: without, the second derivative would lack terms."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, padding: str, gate: str, axis: int) -> tuple[Tensor, Tensor, Tensor]:
        map = None if _is_wrapped(x, weight) else _layout(x, axis)
        if map is None:
            return native(x, weight, padding, gate, axis)
        with torch.autocast("cpu", enabled=False):
            pooled = _sums(map) / map.positions
            g = GATES[gate](_convolve(pooled, weight.to(map.acc), padding))
            return _scaled(map, g), g, pooled

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, *ctx.options = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, *output[1:])
        ctx.save_for_forward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, g, pooled = ctx.saved_tensors
        map = None if _is_wrapped(x, weight, *cotangents) else _layout(x, ctx.options[-1])
        # A gradient that is to be differentiated again, or is under vmap, is that of the native code.
        if map is None or torch.is_grad_enabled():
            outputs, pull = torch.func.vjp(lambda x, w: native(x, w, *ctx.options), x, weight)  # type: ignore[misc]
            given = (torch.zeros_like(o) if c is None else c for c, o in zip(cotangents, outputs, strict=True))
            return (*pull(tuple(given)), None, None, None)
        with torch.autocast("cpu", enabled=False):
            return (*_backward(map, x, weight, g, pooled, cotangents, ctx.needs_input_grad, *ctx.options), *3 * [None])

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dw: Tensor | None, *_: None) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, g, pooled = ctx.saved_tensors
        padding, gate, axis = ctx.options
        dx = torch.zeros_like(x) if dx is None else dx
        w = weight.to(g.dtype).squeeze(1)
        dpooled = dx.mean([i for i in range(1, x.ndim) if i != axis], dtype=g.dtype)
        dlogits = convolve(dpooled, w, padding)
        if dw is not None:
            dlogits = dlogits + convolve(pooled, dw.to(g.dtype).squeeze(1), padding)
        dg = SLOPES[gate](g) * dlogits
        return (dx * _spread(g, x, axis) + x * _spread(dg, x, axis)).to(x.dtype), dg, dpooled


def _is_wrapped(*tensors: Tensor | None) -> bool:
    """Whether a transform is at work (torch.func, or autograd's own batches), whose tensors have no memory."""
    functorch = torch._C._functorch
    return any(
        t is not None and (functorch.is_functorch_wrapped_tensor(t) or functorch.is_legacy_batchedtensor(t))
        for t in tensors
    )


def _backward(
    map: _Map,
    x: Tensor,
    weight: Tensor,
    g: Tensor,
    pooled: Tensor,
    cotangents: tuple[Tensor | None, ...],
    needed: tuple[bool, ...],
    padding: str,
    gate: str,
    axis: int,
) -> Gradients:
    dy, dg, dpooled = cotangents
    gradient = None
    if dy is not None:
        gradient = _layout(dy, axis)
        if gradient is None or gradient.columns != map.columns:  # as of a sum: expanded, or in another order
            gradient = _layout(torch.empty_like(x).copy_(dy), axis)
        from_y = _sums(map, gradient)
        dg = from_y if dg is None else dg + from_y
    dw = None
    if dg is not None:
        from_gate, dw = _convolve_backward(SLOPES[gate](g) * dg, pooled, weight.to(g.dtype), padding)
        dpooled = from_gate if dpooled is None else dpooled + from_gate
        dw = dw.to(weight.dtype)
    if not needed[0] or dpooled is None:
        return None, dw
    shift = dpooled / map.positions
    if gradient is None:
        return _spread(shift, x, axis).to(x.dtype).expand_as(x), dw
    return _scaled(gradient, g, shift), dw


# --- the feature map ----------------------------------------------------------------------------------------------


def _layout(x: Tensor, axis: int) -> _Map | None:
    """None where the channels are neither before nor after all positions in memory."""
    first = x if axis == 1 else x.movedim(axis, 1)
    if first.is_contiguous():
        return _Map(first.flatten(2), False, x.shape, axis) if x.numel() else None
    last = x.movedim(axis, -1)
    if last.is_contiguous():
        return _Map(last.flatten(1, -2), True, x.shape, axis) if x.numel() else None
    return None


def _sums(map: _Map, other: _Map | None = None) -> Tensor:
    """Sum x, or its product with another map, over the positions: (N, C) in float32, by way of a small buffer."""
    x, acc = map.data, map.acc
    if other is None and x.dtype == acc:
        return x.sum(1 if map.columns else 2)
    d = None if other is None else other.data
    if not map.columns:  # rows of positions
        x, d = x.flatten(0, 1), None if d is None else d.flatten(0, 1)
        sums = x.new_empty(len(x), dtype=acc)
        step = max(1, BUFFER // map.positions)
        buffer = x.new_empty(min(step, len(x)), map.positions, dtype=acc)
        for i in range(0, len(x), step):
            part = _product(x[i : i + step], None if d is None else d[i : i + step], buffer)
            torch.sum(part, 1, out=sums[i : i + step])
        return sums.view(map.data.shape[:2])
    n, positions, channels = x.shape
    sums = x.new_zeros(n, channels, dtype=acc)
    step, span = max(1, BUFFER // (positions * channels)), max(1, min(positions, BUFFER // channels))
    buffer = x.new_empty(min(step, n), span, channels, dtype=map.acc)
    for i in range(0, n, step):
        for s in range(0, positions, span):
            block = (slice(i, i + step), slice(s, s + span))
            part = buffer[: min(step, n - i), : min(span, positions - s)]
            sums[i : i + step] += _product(x[block], None if d is None else d[block], part).sum(1)
    return sums


def _product(x: Tensor, d: Tensor | None, buffer: Tensor) -> Tensor:
    """x, or x * d, in the buffer's dtype."""
    buffer = buffer[: len(x)]
    if d is not None and x.dtype == d.dtype == buffer.dtype:
        return torch.mul(x, d, out=buffer)
    buffer.copy_(x)
    return buffer if d is None else buffer.mul_(d)


def _scaled(map: _Map, g: Tensor, shift: Tensor | None = None) -> Tensor:
    """x * g, or x * g + shift, with both (N, C) in float32; rounded once to x's dtype, in its layout."""
    x, dim = map.data, 1 if map.columns else 2
    if x.dtype == map.acc:
        y = x * g.unsqueeze(dim)
        return map.like_x(y if shift is None else y.add_(shift.unsqueeze(dim)))
    if not map.columns:
        # Batch normalisation at inference is what multiplies half precision by float32 and rounds once, in one pass.
        rows = g.numel()
        zeros, ones = g.new_zeros(rows), g.new_ones(rows)
        shift = zeros if shift is None else shift.flatten()
        y = F.batch_norm(x.view(1, rows, -1), zeros, ones, g.flatten(), shift, eps=0.0)
        return map.like_x(y.view(x.shape))
    y = torch.empty_like(x)
    n, positions, channels = x.shape
    step, span = max(1, BUFFER // (positions * channels)), max(1, min(positions, BUFFER // channels))
    buffer = x.new_empty(min(step, n), span, channels, dtype=map.acc)
    for i in range(0, n, step):
        for s in range(0, positions, span):
            block = (slice(i, i + step), slice(s, s + span))
            part = buffer[: min(step, n - i), : min(span, positions - s)]
            part.copy_(x[block]).mul_(g[i : i + step, None])
            y[block] = part if shift is None else part.add_(shift[i : i + step, None])
    return map.like_x(y)


# --- the kernel over the channels ---------------------------------------------------------------------------------


def _convolve(pooled: Tensor, weight: Tensor, padding: str) -> Tensor:
    """As `convolve`; the most usual case in one call."""
    if padding == "zeros" and len(weight) == 1:
        return F.conv1d(pooled.unsqueeze(1), weight, padding=weight.shape[2] // 2).squeeze(1)
    return convolve(pooled, weight.squeeze(1), padding)


def _convolve_backward(dlogits: Tensor, pooled: Tensor, weight: Tensor, padding: str) -> tuple[Tensor, Tensor]:
    if padding == "zeros" and len(weight) == 1:
        half = weight.shape[2] // 2
        means, dz = pooled.unsqueeze(1), dlogits.unsqueeze(1)
        dpooled = conv1d_input(means.shape, weight, dz, padding=half)  # type: ignore[no-untyped-call]
        dw = conv1d_weight(means, weight.shape, dz, padding=half)  # type: ignore[no-untyped-call]
        return dpooled.squeeze(1), dw
    _, pull = torch.func.vjp(lambda p, w: convolve(p, w.squeeze(1), padding), pooled, weight)  # type: ignore[misc]
    dpooled, dw = pull(dlogits)
    return dpooled, dw
