"""The ECA function for JAX: the tensor lines of the layer."""

import math
from collections.abc import Callable
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
    spatial_axes,
)

from ._bfloat16 import opaque, scaled, widen
from ._masked_product import masked_product
from ._mesh import AxisName, across, axis_size, with_neighbours

Gate = str | Callable[[jax.Array], jax.Array]

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
    mask: ArrayLike | None = ...,
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
    mask: ArrayLike | None = ...,
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
    mask: ArrayLike | None = None,
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
        mask: Boolean, broadcastable to x's shape without its channel axis; True where a position counts for the
            mean. A sample without any valid position has mean 0.
        return_gate: Return also the gate.
        axis_name, channel_axis_name: Inside `jax.shard_map`, where x is one device's shard: the mesh axes over which
            the positions of a sample are spread, and the one over which the channels are. Leave them elsewhere.

    Returns:
        y of x's shape and dtype; with `return_gate`, (y, gate) with the gate of shape (N, C) in float32, or float64
        where x or weight is. Means, gate and product are computed in that dtype.

    Raises:
        TypeError, ValueError: As listed in docs/errors.md.

    Example:
        >>> import jax.numpy as jnp
        >>> from eca_multi.jax import eca
        >>> eca(jnp.ones((2, 5, 7, 8)), jnp.zeros((3, 1, 1))).mean()
        Array(0.5, dtype=float32)

    Source: Wang et al., ECA-Net, CVPR 2020.
    """
    check_padding(padding)
    check_gate(gate)
    check_axis_names(axis_name, channel_axis_name)
    x, weight = as_floating("x", x), as_floating("weight", weight)
    axis = check_channel_axis(channel_axis, x.shape)
    axes = spatial_axes(axis, x.shape)
    channels = x.shape[axis]
    kernels, taps = native_kernel("jax", weight.shape)
    k = check_kernel(kernels, taps, channels, weight.shape)
    check_circular(padding, k, channels * axis_size(channel_axis_name))
    acc = jnp.float64 if jnp.float64 in (x.dtype, weight.dtype) else jnp.float32

    # The gradient of a product in bfloat16 is summed in bfloat16 (20 % off on a 28x28 map), so x is widened first.
    twice = x.dtype == jnp.bfloat16
    wide, again = widen(x, acc) if twice else (x.astype(acc),) * 2
    # XLA:CPU makes a quotient once, but the product with 1/n, and so the taps' gradient, at every position of dx.
    valid: jax.Array | None = None
    if mask is None:
        count = opaque(jnp.asarray(math.prod(x.shape[i] for i in axes), acc))
        pooled = across(lax.pmean, again.sum(axes) / count, axis_name)
    else:
        check_mask(getattr(mask, "dtype", None) == jnp.bool_, mask, axis, x.shape)
        valid = jnp.broadcast_to(mask, (*x.shape[:axis], *x.shape[axis + 1 :]))
        valid = jnp.expand_dims(valid, axis)
        count = jnp.maximum(across(lax.psum, valid.sum(axes, dtype=acc), axis_name), 1)
        sums = across(lax.psum, jnp.where(valid, again, 0).sum(axes), axis_name)
        pooled = sums / opaque(jnp.broadcast_to(count, sums.shape))

    logits = _convolve(pooled, weight.astype(acc).reshape(k, 1, -1), padding, channel_axis_name)
    g = GATES[gate](logits) if isinstance(gate, str) else gate(logits)
    check_gate_shape(g.shape, logits.shape)
    scale = jnp.expand_dims(g, axes)
    if valid is not None:
        y = masked_product(x, wide, scale, valid)
    else:
        y = scaled(x, wide, scale) if twice else (wide * scale).astype(x.dtype)
    return (y, g) if return_gate else y


def _convolve(pooled: jax.Array, w: jax.Array, padding: str, channel_axis_name: str | None) -> jax.Array:
    """Correlate the means (N, C) with one kernel (k, 1, 1), or with one per channel (k, 1, C)."""
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
    return lax.pad(a, jnp.zeros((), a.dtype), ((0, 0, 0), (low, -low, 0)))


def as_floating(name: str, value: ArrayLike, dtype: DTypeLike | None = None) -> jax.Array:
    """Return a floating-point array, of `dtype` where that is given; anything else raises TypeError."""
    is_floating = jnp.issubdtype(getattr(value, "dtype", object), jnp.floating)
    check_floating(name, is_floating, value)
    return jnp.asarray(value, dtype)
