"""ECA along time, step by step: the causal mean carried from one block of positions to the next."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from eca_multi._errors import check_channel_axis
from eca_multi._pooling import Pooling, check_pooling, check_state, check_time

from .functional import (
    Gate,
    PoolAxes,
    accumulator,
    as_floating,
    check_rest,
    counts_of,
    gated,
    sums_of,
    twice,
    valid_positions,
)


class ECAState(NamedTuple):
    """What a stream carries: the sums of all positions so far, and how many they are, each as a pair high + low.

    total, total_low: (N, C, *kept), the kept axes without the causal one.
    count, count_low: (N, *kept); the mask may count other positions in each sample.

    Example:
        >>> import jax.numpy as jnp
        >>> from eca_multi.jax import ECAState, eca_step
        >>> y, state = eca_step(jnp.ones((2, 3, 8)), jnp.ones(3), causal_axis=1)
        >>> state.count
        Array([3., 3.], dtype=float32)
        >>> ECAState.start((2, 3, 8), causal_axis=1).count
        Array([0., 0.], dtype=float32)
    """

    total: jax.Array
    total_low: jax.Array
    count: jax.Array  # type: ignore[assignment]  # the field hides tuple's method
    count_low: jax.Array

    @classmethod
    def start(
        cls,
        x: ArrayLike | jax.ShapeDtypeStruct | Sequence[int],
        *,
        causal_axis: int,
        channel_axis: int = -1,
        pool_axes: PoolAxes = None,
        dtype: DTypeLike | None = None,
    ) -> "ECAState":
        """Return the state before the first position: the carry with which `lax.scan` starts.

        Args:
            x: A block of the stream, what has its shape and dtype, or its shape alone.
            causal_axis, channel_axis, pool_axes: As in `eca_step`.
            dtype: Of the sums. None takes float64 where x is of it, else float32.

        Example:
            >>> from eca_multi.jax import ECAState
            >>> ECAState.start((2, 1, 8), causal_axis=1).total.shape
            (2, 8)
        """
        shape = tuple(x) if isinstance(x, Sequence) else jnp.shape(x)
        axis = check_channel_axis(channel_axis, shape)
        pooling = check_pooling(pool_axes, check_time(causal_axis), axis, shape)
        if dtype is None:
            dtype = jnp.float64 if getattr(x, "dtype", None) == jnp.float64 else jnp.float32
        kept = tuple(shape[i] for i in pooling.kept if i != pooling.causal)
        total, count = jnp.zeros((shape[0], shape[axis], *kept), dtype), jnp.zeros((shape[0], *kept), dtype)
        return cls(total, total, count, count)


def eca_step(
    x: ArrayLike,
    weight: ArrayLike,
    state: ECAState | None = None,
    *,
    causal_axis: int,
    padding: str = "zeros",
    gate: Gate = "sigmoid",
    channel_axis: int = -1,
    pool_axes: PoolAxes = None,
    mask: ArrayLike | None = None,
    residual: ArrayLike | None = None,
) -> tuple[jax.Array, ECAState]:
    """Gate the next positions of a stream as `eca` with `causal_axis` gates them in the whole sequence.

    Args:
        x: The next block, one position along `causal_axis` or more; else as in `eca`.
        weight, padding, gate, channel_axis, pool_axes, mask, residual: As in `eca`.
        state: What the call before returned; None before the first one.
        causal_axis: The axis of time.

    Returns:
        (y, state): y of x's shape and dtype, and the state for the next block, whatever its length.

    Raises:
        TypeError, ValueError: As listed in docs/errors.md.

    Example:
        >>> import jax.numpy as jnp
        >>> from eca_multi.jax import eca, eca_step
        >>> x, weight = jnp.arange(40.0).reshape(1, 5, 8), jnp.ones(3)
        >>> y, state = eca_step(x[:, :3], weight, causal_axis=1)
        >>> last, state = eca_step(x[:, 3:], weight, state, causal_axis=1)
        >>> bool(jnp.allclose(last, eca(x, weight, causal_axis=1)[:, 3:]))
        True

    Source: the running mean of docs/sequences.md; sums by Knuth's TwoSum, The Art of Computer Programming 2, 4.2.2.
    """
    x, weight = as_floating("x", x), as_floating("weight", weight)
    axis = check_channel_axis(channel_axis, x.shape)
    pooling = check_pooling(pool_axes, check_time(causal_axis), axis, x.shape)
    residual = check_rest(x, weight, axis, padding, gate, residual)
    acc = accumulator(x, weight)
    if state is None:
        state = ECAState.start(x, causal_axis=causal_axis, channel_axis=axis, pool_axes=pool_axes, dtype=acc)
    check_state(state.total.shape, state.count.shape, x.shape, axis, pooling)
    total, total_low, count, count_low = (part.astype(acc) for part in state)

    wide, again = twice(x, acc)
    valid: jax.Array | None = None
    if mask is None:
        sums, counts = sums_of(again, axis, pooling), counts_of(x.shape, pooling, acc)
    else:
        valid = valid_positions(mask, axis, x.shape)
        sums = sums_of(jnp.where(valid, again, 0), axis, pooling)
        counts = sums_of(valid, axis, pooling, acc)
    counts = jnp.broadcast_to(counts, (x.shape[0], 1, *sums.shape[2:]))
    so_far = _before(total, pooling) + (_before(total_low, pooling) + sums)
    counted = _before(count[:, None], pooling) + (_before(count_low[:, None], pooling) + counts)
    pooled = so_far / jnp.maximum(counted, 1)

    y, _ = gated(x, wide, pooled, weight, axis, pooling, valid, residual, padding, gate)
    total, total_low = _add(total, total_low, _last(sums, pooling))
    count, count_low = _add(count, count_low, _last(counts, pooling)[:, 0])
    return y, ECAState(total, total_low, count, count_low)


def _before(a: jax.Array, pooling: Pooling) -> jax.Array:
    """Return (N, C, *kept) with one position along the causal axis."""
    return jnp.expand_dims(a, pooling.running or 0)


def _last(a: jax.Array, pooling: Pooling) -> jax.Array:
    axis = pooling.running or 0
    return jnp.take(a, a.shape[axis] - 1, axis)


def _add(high: jax.Array, low: jax.Array, term: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Add a term to the number high + low; the new low part holds what the sum rounds off."""
    total = high + term
    seen = total - high
    lost = (high - (total - seen)) + (term - seen)
    low = low + lost
    # Normalised, so that the low part stays below half an ulp of the high one.
    return total + low, low - ((total + low) - total)
