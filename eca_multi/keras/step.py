"""ECA along time, step by step: the causal mean carried from one block of positions to the next."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
from keras import ops

from eca_multi._errors import check_channel_axis
from eca_multi._pooling import Pooling, check_pooling, check_state, check_time

from ._backends import widen
from .functional import (
    Gate,
    Tensor,
    accumulator,
    as_floating,
    at_least_one,
    check_rest,
    counts_of,
    gated,
    sums_of,
    valid_positions,
)


class ECAState(NamedTuple):
    """What a stream carries: the sums of all positions so far, and how many they are, each as a pair high + low.

    total, total_low: (N, C, *kept), the kept axes without the causal one.
    count, count_low: (N, *kept); the mask may count other positions in each sample.

    Example:
        >>> from keras import ops
        >>> from eca_multi.keras import ECAState, eca_step
        >>> y, state = eca_step(ops.ones((2, 3, 8)), ops.ones((3, 1, 1)), causal_axis=1)
        >>> [float(count) for count in state.count]
        [3.0, 3.0]
        >>> [float(count) for count in ECAState.start((2, 3, 8), causal_axis=1).count]
        [0.0, 0.0]
    """

    total: Tensor
    total_low: Tensor
    count: Tensor
    count_low: Tensor

    @classmethod
    def start(
        cls,
        x: Tensor | Sequence[int],
        *,
        causal_axis: int,
        channel_axis: int = -1,
        pool_axes: int | Sequence[int] | None = None,
        dtype: str | None = None,
    ) -> "ECAState":
        """Return the state before the first position: the carry with which `keras.ops.scan` starts.

        Args:
            x: A block of the stream, or its shape alone.
            causal_axis, channel_axis, pool_axes: As in `eca_step`.
            dtype: Of the sums. None takes float64 where x is of it, else float32.

        Example:
            >>> from eca_multi.keras import ECAState
            >>> tuple(ECAState.start((2, 1, 8), causal_axis=1).total.shape)
            (2, 8)
        """
        known = tuple(x) if isinstance(x, Sequence) else tuple(x.shape)
        extents = known if isinstance(x, Sequence) else ops.shape(x)  # a graph of TensorFlow's knows them later
        axis = check_channel_axis(channel_axis, known)
        pooling = check_pooling(pool_axes, check_time(causal_axis), axis, known)
        if dtype is None:
            is_wide = hasattr(x, "dtype") and keras.backend.standardize_dtype(x.dtype) == "float64"
            dtype = "float64" if is_wide else "float32"
        kept = tuple(extents[i] for i in pooling.kept if i != pooling.causal)
        total = ops.zeros((extents[0], extents[axis], *kept), dtype)
        count = ops.zeros((extents[0], *kept), dtype)
        return cls(total, total, count, count)


def eca_step(
    x: Tensor,
    weight: Tensor,
    state: ECAState | None = None,
    *,
    causal_axis: int,
    padding: str = "zeros",
    gate: Gate = "sigmoid",
    channel_axis: int = -1,
    pool_axes: int | Sequence[int] | None = None,
    mask: Tensor | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, ECAState]:
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
        >>> from keras import ops
        >>> from eca_multi.keras import eca, eca_step
        >>> x, weight = ops.reshape(ops.arange(40, dtype="float32"), (1, 5, 8)), ops.ones((3, 1, 1))
        >>> y, state = eca_step(x[:, :3], weight, causal_axis=1)
        >>> last, state = eca_step(x[:, 3:], weight, state, causal_axis=1)
        >>> bool(ops.all(ops.isclose(last, eca(x, weight, causal_axis=1)[:, 3:])))
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
    check_state(tuple(state.total.shape), tuple(state.count.shape), tuple(x.shape), axis, pooling)
    total, total_low, count, count_low = (ops.cast(part, acc) for part in state)

    wide, again = widen(x, acc)
    valid = None
    if mask is None:
        sums, counts = sums_of(again, axis, pooling), counts_of(x, axis, pooling, acc)
    else:
        valid = valid_positions(mask, axis, x)
        sums = sums_of(ops.where(valid, again, ops.zeros((), acc)), axis, pooling)
        counts = sums_of(ops.cast(valid, acc), axis, pooling)
    so_far = _before(total, pooling) + (_before(total_low, pooling) + sums)
    counted = _before(count[:, None], pooling) + (_before(count_low[:, None], pooling) + counts)
    pooled = so_far / at_least_one(counted)

    y, _ = gated(x, wide, pooled, weight, axis, pooling, valid, residual, padding, gate)
    total, total_low = _add(total, total_low, _last(sums, pooling))
    count, count_low = _add(count, count_low, _last(counts, pooling)[:, 0])
    return y, ECAState(total, total_low, count, count_low)


def _before(a: Tensor, pooling: Pooling) -> Tensor:
    """Return (N, C, *kept) with one position along the causal axis."""
    return a[(slice(None),) * (pooling.running or 0) + (None,)]


def _last(a: Tensor, pooling: Pooling) -> Tensor:
    return a[(slice(None),) * (pooling.running or 0) + (-1,)]


def _add(high: Tensor, low: Tensor, term: Tensor) -> tuple[Tensor, Tensor]:
    """Add a term to the number high + low; the new low part holds what the sum rounds off."""
    total = high + term
    seen = total - high
    lost = (high - (total - seen)) + (term - seen)
    low = low + lost
    # Normalised, so that the low part stays below half an ulp of the high one.
    return total + low, low - ((total + low) - total)
