"""The oracle: Efficient Channel Attention in NumPy float64, with gradients written by hand.

It uses no framework and no automatic differentiation. The implementations are judged by its results; plain loops and
finite differences in the tests check the module itself. The notation is that of docs/eca.md:

    p = mean of x over the pooled axes P (over the valid positions; along a causal axis, up to each position)
    z[n, c, .] = sum_j w[j] p[n, c + j - k//2, .]       g = gate(z)       y = x * g (+ residual)

The gate multiplies padding (a position that the mask leaves out) like any other position. But NaN or infinity there
takes no part in the gate's gradient: 0 * NaN would be NaN, though the loss never looked there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._errors import (
    GATES,
    check_channel_axis,
    check_circular,
    check_floating,
    check_gate,
    check_kernel,
    check_padding,
)
from ._means import Array, expand, mean, running_back, total, valid_positions, without_bad_padding
from ._pooling import check_pooling, check_residual_shape


@dataclass(frozen=True)
class Forward:
    """Outputs of `forward`: `pooled`, `logits` and `gate` have shape (N, C, *kept), `y` has x's.

    The kept axes are those along which gates vary, in x's order: what is not pooled, and the causal one.
    """

    pooled: Array
    logits: Array
    gate: Array
    y: Array


@dataclass(frozen=True)
class Backward:
    """Outputs of `backward`: gradients of sum(cotangent * y); `d_*` are (N, C, *kept), `dx` and `dw` as x and weight.

    The gradient of the residual is the cotangent itself.
    """

    d_gate: Array
    d_logits: Array
    d_pooled: Array
    dx: Array
    dw: Array


def forward(
    x: ArrayLike,
    weight: ArrayLike,
    *,
    padding: str = "zeros",
    gate: str = "sigmoid",
    channel_axis: int = 1,
    pool_axes: int | Sequence[int] | None = None,
    causal_axis: int | None = None,
    mask: ArrayLike | None = None,
    residual: ArrayLike | None = None,
    instead: Mapping[str, Array] = MappingProxyType({}),
) -> Forward:
    """Compute ECA in float64.

    Args:
        x: Feature map, rank >= 3, batch in axis 0; any real dtype, converted to float64.
        weight: One kernel, shape (k,), or one per channel (ECA-NS), shape (C, k); k odd.
        padding: "zeros" or "circular", over the channels.
        gate: "sigmoid", "hard_sigmoid" (relu6(z + 3) / 6) or "2sigmoid" (2 * sigmoid).
        channel_axis: Axis of the channels, not 0.
        pool_axes: Axes of x to average over; None is all but batch and channels. A gate of its own for each position
            of the others.
        causal_axis: The pooled axis along which a position sees itself and what lies before it. Gates vary along it.
        mask: Boolean, broadcastable to x's shape without its channel axis: True where a position counts. Where no
            position counts (so far), p = 0.
        residual: Of x's shape, added to the product.
        instead: For some of the results "pooled", "logits" and "gate", the values from which the later stages go on;
            the result itself stays what this stage computes. The parity harness judges each stage alone by this.

    Raises:
        TypeError, ValueError: As every ECA in this package; see docs/errors.md.

    Example:
        >>> import numpy as np
        >>> from eca_multi.reference import forward
        >>> out = forward(np.ones((1, 4, 2, 2)), [1.0, 0.0, -1.0])
        >>> out.logits
        array([[-1.,  0.,  0.,  1.]])

    Source: Wang et al., ECA-Net, CVPR 2020.
    """
    x, w, axis = _check(x, weight, padding, gate, channel_axis)
    pooling = check_pooling(pool_axes, causal_axis, axis, x.shape)
    valid, count = valid_positions(x, axis, pooling, mask)
    pooled = mean(x, valid, count, axis, pooling)
    logits = correlate(instead.get("pooled", pooled), w, padding)
    g = gate_value(instead.get("logits", logits), gate)
    y = x * expand(instead.get("gate", g), axis, pooling)
    if residual is not None:
        check_residual_shape(np.shape(residual), x.shape)
        y = y + _real("residual", residual)
    return Forward(pooled, logits, g, y)


def backward(
    x: ArrayLike,
    weight: ArrayLike,
    cotangent: ArrayLike,
    *,
    padding: str = "zeros",
    gate: str = "sigmoid",
    channel_axis: int = 1,
    pool_axes: int | Sequence[int] | None = None,
    causal_axis: int | None = None,
    mask: ArrayLike | None = None,
    instead: Mapping[str, Array] = MappingProxyType({}),
) -> Backward:
    """Compute the gradients of sum(cotangent * y) with respect to x, weight and every intermediate result.

    Args:
        x, weight, padding, gate, channel_axis, pool_axes, causal_axis, mask: As in `forward`. Where the mask is False
            and x is not finite, x counts as 0 for the gradient of the gate; dx there is cotangent * gate, as at any
            such position.
        cotangent: Gradient of the loss with respect to y, of x's shape.
        instead: As in `forward`, and for "d_gate", "d_logits" and "d_pooled" too.

    Example:
        >>> import numpy as np
        >>> from eca_multi.reference import backward
        >>> grads = backward(np.ones((1, 4, 2, 2)), [0.0, 0.0, 0.0], np.ones((1, 4, 2, 2)))
        >>> grads.dw
        array([3., 4., 3.])
    """
    options: dict[str, Any] = {"channel_axis": channel_axis, "pool_axes": pool_axes, "causal_axis": causal_axis}
    out = forward(x, weight, padding=padding, gate=gate, mask=mask, instead=instead, **options)
    x, w, axis = _check(x, weight, padding, gate, channel_axis)
    pooling = check_pooling(pool_axes, causal_axis, axis, x.shape)
    G = _real("cotangent", cotangent)
    if G.shape != x.shape:
        raise ValueError(
            f"cotangent must be of x's shape {x.shape}. Received: shape {G.shape}. "
            "It is the gradient with respect to y."
        )
    valid, count = valid_positions(x, axis, pooling, mask)
    pooled, logits, g = (instead.get(name, getattr(out, name)) for name in ("pooled", "logits", "gate"))

    d_gate = total(G * without_bad_padding(x, valid), axis, pooling)
    d_logits = instead.get("d_gate", d_gate) * gate_slope(logits, gate)
    d_pooled = correlate_back(instead.get("d_logits", d_logits), w, padding)
    per_channel = products(instead.get("d_logits", d_logits), pooled, w.shape[1], padding)
    dw = per_channel.sum((0, 1)) if np.ndim(weight) == 1 else per_channel.sum(0)
    d_sums = running_back(instead.get("d_pooled", d_pooled) / count, pooling)
    dx = G * expand(g, axis, pooling) + np.where(valid, expand(d_sums, axis, pooling), 0.0)
    return Backward(d_gate, d_logits, d_pooled, dx, dw)


# --- stages: the parity harness sends errors and magnitudes through the linear ones


def correlate(a: Array, w: Array, padding: str) -> Array:
    """Correlate a, (N, C, *kept), with a kernel for all channels, (1, k), or one for each, (C, k)."""
    taps, half = range(w.shape[1]), w.shape[1] // 2
    return sum((_tap(w, j, a) * shift(a, j - half, padding) for j in taps), start=np.zeros_like(a))


def correlate_back(a: Array, w: Array, padding: str) -> Array:
    """Apply the transpose of `correlate`."""
    taps, half = range(w.shape[1]), w.shape[1] // 2
    return sum((shift(_tap(w, j, a) * a, half - j, padding) for j in taps), start=np.zeros_like(a))


def _tap(w: Array, j: int, a: Array) -> Array:
    """Return tap j of every kernel, shaped to multiply (N, C, *kept)."""
    return w[:, j].reshape(-1, *(1,) * (a.ndim - 2))


def products(d_logits: Array, pooled: Array, k: int, padding: str) -> Array:
    """Return the terms of dw, summed over the kept axes, before the sum over samples (and channels), (N, C, k)."""
    terms = [d_logits * shift(pooled, j - k // 2, padding) for j in range(k)]
    return np.stack([term.sum(tuple(range(2, term.ndim))) for term in terms], -1)


def gate_value(z: Array, gate: str) -> Array:
    """Return the named gate at z, without overflow at either end."""
    if gate == "hard_sigmoid":
        return np.clip(z + 3.0, 0.0, 6.0) / 6.0
    small = np.exp(-np.abs(z))
    sigmoid = np.where(z >= 0, 1.0, small) / (1.0 + small)
    return 2.0 * sigmoid if gate == "2sigmoid" else sigmoid


def gate_slope(z: Array, gate: str) -> Array:
    """Return the derivative of the named gate at z."""
    if gate == "hard_sigmoid":
        return np.where(np.abs(z) < 3.0, 1.0 / 6.0, 0.0)
    slope = gate_value(z, "sigmoid") * gate_value(-z, "sigmoid")
    return 2.0 * slope if gate == "2sigmoid" else slope


def _check(x: ArrayLike, weight: ArrayLike, padding: str, gate: str, channel_axis: int) -> tuple[Array, Array, int]:
    """Return x and the weight (as a matrix, one row per kernel) in float64, and the axis from the front."""
    check_padding(padding)
    check_gate(gate)
    if callable(gate):
        raise TypeError(
            f"gate must be {' or '.join(map(repr, GATES))} here. Received: gate={gate!r}. "
            "The oracle's gradients are written by hand: it knows the named gates alone."
        )
    x, w = _real("x", x), np.atleast_2d(_real("weight", weight))
    axis = check_channel_axis(channel_axis, x.shape)
    kernels, taps = w.shape if w.ndim == 2 else (None, None)
    k = check_kernel(kernels, taps, x.shape[axis], np.shape(weight))
    check_circular(padding, k, x.shape[axis])
    return x, w, axis


def _real(name: str, value: ArrayLike) -> Array:
    array = np.asarray(value)
    check_floating(name, array.dtype.kind not in "cSUO", array)
    return array.astype(np.float64)


def shift(a: Array, offset: int, padding: str) -> Array:
    """Return b with b[n, c] = a[n, c + offset]; outside the channels it is zero, or wraps around."""
    C = a.shape[1]
    index = np.arange(C) + offset
    if padding == "circular":
        return a[:, index % C]
    inside = ((index >= 0) & (index < C)).reshape(-1, *(1,) * (a.ndim - 2))
    return np.where(inside, a[:, np.clip(index, 0, C - 1)], 0.0)
