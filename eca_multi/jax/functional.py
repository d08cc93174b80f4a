"""The ECA function for JAX: the tensor lines of the layer."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from eca_multi._canonical import native_kernel
from eca_multi._errors import (
    check_axis_names,
    check_channel_axis,
    check_circular,
    check_floating,
    check_gate,
    check_gate_shape,
    check_kernel,
    check_mask,
    check_padding,
)
from eca_multi._pooling import Pooling, check_pooling, check_residual_dtype, check_residual_shape, check_spread

from ._bfloat16 import opaque, scaled, widen
from ._masked_product import masked_product
from ._mesh import AxisName, across, axis_size, with_neighbours

Gate = str | Callable[[jax.Array], jax.Array]
PoolAxes = int | Sequence[int] | None

GATES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": lambda logits: jax.nn.relu6(logits + 3) / 6,
    "2sigmoid": lambda logits: 2 * jax.nn.sigmoid(logits),
}


@overload
def eca(
    x: ArrayLike,
    weight: ArrayLike,
    *,
    padding: str = ...,
    gate: Gate = ...,
    channel_axis: int = ...,
    pool_axes: PoolAxes = ...,
    causal_axis: int | None = ...,
    mask: ArrayLike | None = ...,
    residual: ArrayLike | None = ...,
    return_gate: Literal[False] = ...,
    axis_name: AxisName = ...,
    channel_axis_name: str | None = ...,
) -> jax.Array: ...
@overload
def eca(
    x: ArrayLike,
    weight: ArrayLike,
    *,
    padding: str = ...,
    gate: Gate = ...,
    channel_axis: int = ...,
    pool_axes: PoolAxes = ...,
    causal_axis: int | None = ...,
    mask: ArrayLike | None = ...,
    residual: ArrayLike | None = ...,
    return_gate: Literal[True],
    axis_name: AxisName = ...,
    channel_axis_name: str | None = ...,
) -> tuple[jax.Array, jax.Array]: ...
def eca(
    x: ArrayLike,
    weight: ArrayLike,
    *,
    padding: str = "zeros",
    gate: Gate = "sigmoid",
    channel_axis: int = -1,
    pool_axes: PoolAxes = None,
    causal_axis: int | None = None,
    mask: ArrayLike | None = None,
    residual: ArrayLike | None = None,
    return_gate: bool = False,
    axis_name: AxisName = None,
    channel_axis_name: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Gate each channel of `x` by a 1-D convolution over the channels' means.

    Args:
        x: Feature map (N, *S, C) or with the channels elsewhere; rank >= 3, a floating-point dtype.
        weight: Kernel of odd size k, shape (k, 1, 1) or (k,); for ECA-NS one per channel, shape (k, 1, C).
        padding: "zeros" or "circular", over the channels.
        gate: "sigmoid", "hard_sigmoid", "2sigmoid" (2 * sigmoid, exactly 1 at 0), or a function of the logits.
        channel_axis: Axis of the channels, not 0.
        pool_axes: Axes of x to average over; None is all but the batch and the channels. Along the axes that are left
            out, the kept ones, gates vary: (2, 3) of a video (N, T, H, W, C) gives each frame its own.
        causal_axis: The pooled axis along which the mean of a position runs over itself and what lies before it, never
            over what comes after; gates vary along it too. See docs/sequences.md.
        mask: Boolean, broadcastable to x's shape without its channel axis; True where a position counts for the
            mean. Where no position counts (so far), the mean is 0.
        residual: Of x's shape and dtype; y = x * gate + residual, rounded once.
        return_gate: Return also the gate.
        axis_name, channel_axis_name: Inside `jax.shard_map`, where x is one device's shard: the mesh axes over which
            the positions of a mean are spread, and the one over which the channels are. Leave them elsewhere. A mesh
            axis that spreads a kept axis needs no name; the causal axis must lie on one device.

    Returns:
        y of x's shape and dtype; with `return_gate`, (y, gate) with the gate of shape (N, C, *kept), the kept axes in
        x's order, in float32, or float64 where x or weight is. Means, gate and product are computed in that dtype.

    Raises:
        TypeError, ValueError: As listed in docs/errors.md.

    Example:
        >>> import jax.numpy as jnp
        >>> from eca_multi.jax import eca
        >>> eca(jnp.ones((2, 5, 7, 8)), jnp.zeros((3, 1, 1))).mean()
        Array(0.5, dtype=float32)

    Source: Wang et al., ECA-Net, CVPR 2020.
    """
    check_axis_names(axis_name, channel_axis_name)
    x, weight = as_floating("x", x), as_floating("weight", weight)
    axis = check_channel_axis(channel_axis, x.shape)
    pooling = check_pooling(pool_axes, causal_axis, axis, x.shape)
    check_spread(axis_name, pooling)
    residual = check_rest(x, weight, axis, padding, gate, residual, channel_axis_name)
    acc = accumulator(x, weight)

    wide, again = twice(x, acc)
    # XLA:CPU makes a quotient once, but the product with 1/n, and so the taps' gradient, at every position of dx.
    valid: jax.Array | None = None
    if mask is None:
        sums = sums_of(again, axis, pooling)
        pooled = across(lax.pmean, sums / opaque(counts_of(x.shape, pooling, acc)), axis_name)
    else:
        valid = valid_positions(mask, axis, x.shape)
        count = sums_of(valid, axis, pooling, acc)
        count = jnp.maximum(across(lax.psum, count, axis_name), 1)
        sums = across(lax.psum, sums_of(jnp.where(valid, again, 0), axis, pooling), axis_name)
        pooled = sums / opaque(jnp.broadcast_to(count, sums.shape))

    y, g = gated(x, wide, pooled, weight, axis, pooling, valid, residual, padding, gate, channel_axis_name)
    return (y, g) if return_gate else y


def gated(
    x: jax.Array,
    wide: jax.Array,
    pooled: jax.Array,
    weight: jax.Array,
    axis: int,
    pooling: Pooling,
    valid: jax.Array | None,
    residual: jax.Array | None,
    padding: str,
    gate: Gate,
    channel_axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return y and the gate from the means (N, C, *kept); `wide` is x in their dtype."""
    w = weight.astype(wide.dtype).reshape(weight.shape[0], 1, -1, *(1 for _ in pooling.kept))
    logits = _convolve(pooled, w, padding, channel_axis_name)
    g = GATES[gate](logits) if isinstance(gate, str) else gate(logits)
    check_gate_shape(g.shape, logits.shape)
    scale = jnp.expand_dims(jnp.moveaxis(g, 1, pooling.left(axis)), pooling.whole)
    if valid is not None:
        y = masked_product(x, wide, scale, valid, residual)
    elif x.dtype == jnp.bfloat16:
        y = scaled(x, wide, scale, residual)
    else:
        y = (wide * scale if residual is None else wide * scale + residual.astype(wide.dtype)).astype(x.dtype)
    return y, g


def sums_of(a: jax.Array, axis: int, pooling: Pooling, dtype: DTypeLike | None = None) -> jax.Array:
    """Sum over the pooled axes, up to each position of the causal one: (N, C, *kept)."""
    sums = jnp.moveaxis(a.sum(pooling.whole, dtype=dtype), pooling.left(axis), 1)
    # XLA sums in blocks, and these again in blocks: after 10^6 steps the error is that of a few dozen additions.
    return sums if pooling.running is None else lax.cumsum(sums, pooling.running)


def counts_of(shape: tuple[int, ...], pooling: Pooling, acc: DTypeLike) -> jax.Array:
    """Return how many positions there are in each mean: one number, or one for each position of the causal axis."""
    count = jnp.asarray(math.prod(shape[i] for i in pooling.whole), acc)
    if pooling.causal is None:
        return count
    after = (1,) * sum(i > pooling.causal for i in pooling.kept)
    return count * (lax.iota(acc, shape[pooling.causal]) + 1).reshape(-1, *after)


def _convolve(pooled: jax.Array, w: jax.Array, padding: str, channel_axis_name: str | None) -> jax.Array:
    """Correlate the means (N, C, *kept) with one kernel (k, 1, 1, ...), or with one per channel (k, 1, C, ...)."""
    # Shifted copies instead of lax.conv, whose kernel gradient is silently wrong where the channels are sharded.
    half = len(w) // 2
    wider = with_neighbours(pooled, half, padding, channel_axis_name) if channel_axis_name else None
    logits = pooled * w[half]
    for j in range(len(w)):
        if j != half:
            shifted = _shift(pooled, j - half, padding) if wider is None else wider[:, j : j + pooled.shape[1]]
            logits = logits + shifted * w[j]
    return logits


def _shift(a: jax.Array, offset: int, padding: str) -> jax.Array:
    """Return b with b[n, c] = a[n, c + offset]; outside the channels it is zero, or wraps around."""
    shifted = _pad(a, -offset)
    if padding == "circular":
        # Take the part that wraps around by a shift the other way: no slice then cuts through sharded channels.
        shifted = shifted + _pad(a, a.shape[1] - offset if offset > 0 else -a.shape[1] - offset)
    return shifted


def _pad(a: jax.Array, low: int) -> jax.Array:
    return lax.pad(a, jnp.zeros((), a.dtype), ((0, 0, 0), (low, -low, 0), *((0, 0, 0),) * (a.ndim - 2)))


def check_rest(
    x: jax.Array,
    weight: jax.Array,
    axis: int,
    padding: str,
    gate: Gate,
    residual: ArrayLike | None,
    channel_axis_name: str | None = None,
) -> jax.Array | None:
    """Check what x, whose channels are at `axis`, goes together with; return the residual as an array."""
    check_padding(padding)
    check_gate(gate)
    kernels, taps = native_kernel("jax", weight.shape)
    k = check_kernel(kernels, taps, x.shape[axis], weight.shape)
    check_circular(padding, k, x.shape[axis] * axis_size(channel_axis_name))
    if residual is None:
        return None
    residual = as_floating("residual", residual)
    check_residual_shape(residual.shape, x.shape)
    check_residual_dtype(residual.dtype.name, x.dtype.name)
    return residual


def accumulator(x: jax.Array, weight: jax.Array) -> jnp.dtype:
    dtype: jnp.dtype = jnp.dtype("float64" if jnp.float64 in (x.dtype, weight.dtype) else "float32")
    return dtype


def twice(x: jax.Array, acc: DTypeLike) -> tuple[jax.Array, jax.Array]:
    """Return x in `acc` for the product and for the means."""
    # The gradient of a product in bfloat16 is summed in bfloat16 (20 % off on a 28x28 map), so x is widened first.
    return widen(x, acc) if x.dtype == jnp.bfloat16 else (x.astype(acc),) * 2


def valid_positions(mask: ArrayLike, axis: int, shape: tuple[int, ...]) -> jax.Array:
    """Return the mask of an x of that shape, with one channel."""
    check_mask(getattr(mask, "dtype", None) == jnp.bool_, mask, axis, shape)
    return jnp.expand_dims(jnp.broadcast_to(mask, (*shape[:axis], *shape[axis + 1 :])), axis)


def as_floating(name: str, value: ArrayLike, dtype: DTypeLike | None = None) -> jax.Array:
    """Return a floating-point array, of `dtype` where that is given; anything else raises TypeError."""
    is_floating = jnp.issubdtype(getattr(value, "dtype", object), jnp.floating)
    check_floating(name, is_floating, value)
    return jnp.asarray(value, dtype)
