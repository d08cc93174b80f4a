"""The ECA function for JAX: the tensor lines of the layer."""

from collections.abc import Callable
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from eca_multi._canonical import native_kernel
from eca_multi._errors import (
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
    x, weight = as_floating("x", x), as_floating("weight", weight)
    axis = check_channel_axis(channel_axis, x.shape)
    axes = spatial_axes(axis, x.shape)
    channels = x.shape[axis]
    kernels, taps = native_kernel("jax", weight.shape)
    k = check_kernel(kernels, taps, channels, weight.shape)
    check_circular(padding, k, channels)
    acc = jnp.float64 if jnp.float64 in (x.dtype, weight.dtype) else jnp.float32

    # The gradient of a product in bfloat16 is summed in bfloat16 (20 % off on a 28x28 map), so x is widened once.
    wide = x.astype(acc)
    if mask is None:
        pooled = wide.mean(axes)
    else:
        check_mask(getattr(mask, "dtype", None) == jnp.bool_, mask, axis, x.shape)
        valid = jnp.broadcast_to(mask, (*x.shape[:axis], *x.shape[axis + 1 :]))
        valid = jnp.expand_dims(valid, axis)
        count = jnp.maximum(valid.sum(axes, dtype=acc), 1)
        pooled = jnp.where(valid, wide, 0).sum(axes) / count

    logits = _convolve(pooled, weight.astype(acc).reshape(k, 1, -1), padding)
    g = GATES[gate](logits) if isinstance(gate, str) else gate(logits)
    check_gate_shape(g.shape, logits.shape)
    y = (wide * jnp.expand_dims(g, axes)).astype(x.dtype)
    return (y, g) if return_gate else y


def _convolve(pooled: jax.Array, w: jax.Array, padding: str) -> jax.Array:
    """Correlate the means (N, C) with one kernel (k, 1, 1), or with one per channel (k, 1, C)."""
    # Shifted copies instead of lax.conv: its kernel gradient is silently wrong where the channels are sharded.
    half = len(w) // 2
    logits = pooled * w[half]
    for j in range(len(w)):
        if j != half:
            logits = logits + _shift(pooled, j - half, padding) * w[j]
    return logits


def _shift(a: jax.Array, offset: int, padding: str) -> jax.Array:
    """Return b with b[n, c] = a[n, c + offset]; outside the channels it is zero, or wraps around."""
    shifted = _pad(a, -offset)
    if padding == "circular":
        # The part that wrapped around is a shift the other way, so no slice cuts through sharded channels.
        shifted = shifted + _pad(a, a.shape[1] - offset if offset > 0 else -a.shape[1] - offset)
    return shifted


def _pad(a: jax.Array, low: int) -> jax.Array:
    return lax.pad(a, jnp.zeros((), a.dtype), ((0, 0, 0), (low, -low, 0)))


def as_floating(name: str, value: ArrayLike, dtype: DTypeLike | None = None) -> jax.Array:
    """Return a floating-point array, of `dtype` where that is given; anything else raises TypeError."""
    is_floating = jnp.issubdtype(getattr(value, "dtype", object), jnp.floating)
    check_floating(name, is_floating, value)
    return jnp.asarray(value, dtype)
