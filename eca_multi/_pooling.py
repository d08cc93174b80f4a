"""Over which axes ECA averages, and which keep gates of their own: the checks that every framework calls."""

from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex

from ._errors import _integer, _text

_POOL_REMEDY = "Name spatial axes of x, for example (2, 3) for the frames' own means in a video (N, C, H, W, T)."
_CAUSAL_REMEDY = "Name the axis of time, for example 2 for a sequence (N, C, T)."


class Pooling(NamedTuple):
    """The axes of one x, counted from the front, each tuple in rising order.

    axes: Those averaged over; the causal one, over which the mean runs, is among them.
    kept: Those along which gates vary: what is not pooled, and the causal one. The gate is (N, C, *kept).
    causal: The axis along which a position sees itself and what lies before it; None where there is none.
    """

    axes: tuple[int, ...]
    kept: tuple[int, ...]
    causal: int | None

    @property
    def whole(self) -> tuple[int, ...]:
        """The axes whose sum is taken whole: the pooled ones without the causal one."""
        return tuple(axis for axis in self.axes if axis != self.causal)

    @property
    def running(self) -> int | None:
        """Where the causal axis lies in (N, C, *kept); None where there is none."""
        return None if self.causal is None else 2 + self.kept.index(self.causal)

    def left(self, axis: int) -> int:
        """Return where an axis of x stands in the sums over the whole axes."""
        return axis - sum(i < axis for i in self.whole)


def check_pooling(
    pool_axes: SupportsIndex | Sequence[SupportsIndex] | None,
    causal_axis: SupportsIndex | None,
    axis: int,
    shape: Sequence[Any],
) -> Pooling:
    """Check the pooled axes of an x whose channels are at `axis`; an unknown extent (None) passes.

    An extent of 0 in a pooled axis has no mean and raises; in a kept axis it is as good as an empty batch.
    """
    rank = len(shape)
    pool_axes, causal_axis = check_pooling_types(pool_axes, causal_axis)
    axes = tuple(i for i in range(1, rank) if i != axis)
    if pool_axes is not None:
        axes = tuple(sorted(_spatial("pool_axes", pool, pool_axes, axis, rank, _POOL_REMEDY) for pool in pool_axes))
        if len(set(axes)) < len(axes):
            remedy = "Name each axis once; -1 is the last one."
            raise ValueError(_text("pool_axes", "different axes", f"pool_axes={pool_axes} for rank {rank}", remedy))
    causal = None
    if causal_axis is not None:
        causal = _spatial("causal_axis", causal_axis, causal_axis, axis, rank, _CAUSAL_REMEDY)
        if causal not in axes:
            remedy = "Add the axis to pool_axes: the mean runs along it."
            received = f"causal_axis={causal_axis} with pool_axes={pool_axes} for rank {rank}"
            raise ValueError(_text("causal_axis", "one of the pooled axes", received, remedy))
    for i in axes:
        if shape[i] is not None and shape[i] == 0:
            remedy = "The mean over no position is undefined; drop such samples."
            expected = "non-empty in every spatial axis that is pooled"
            raise ValueError(_text("x", expected, f"shape {tuple(shape)}", remedy))
    kept = tuple(i for i in range(1, rank) if i != axis and (i not in axes or i == causal))
    return Pooling(axes, kept, causal)


def check_pooling_types(
    pool_axes: SupportsIndex | Sequence[SupportsIndex] | None, causal_axis: SupportsIndex | None
) -> tuple[tuple[int, ...] | None, int | None]:
    """Return both as a layer stores them, before any x is known: one axis alone counts as a tuple of one."""
    if causal_axis is not None:
        causal_axis = _integer("causal_axis", causal_axis, "an integer or None", _CAUSAL_REMEDY)
    if pool_axes is None:
        return None, causal_axis
    expected = "an integer, several integers or None"
    if isinstance(pool_axes, str | bytes | dict):
        raise TypeError(_text("pool_axes", expected, f"pool_axes={pool_axes!r}", _POOL_REMEDY))
    if not isinstance(pool_axes, Sequence):
        return (_integer("pool_axes", pool_axes, expected, _POOL_REMEDY),), causal_axis
    axes = tuple(_integer("pool_axes", axis, "a sequence of integers", _POOL_REMEDY) for axis in pool_axes)
    if not axes:
        remedy = "Without a pooled axis there is no mean; leave the option out to pool over all spatial axes."
        raise ValueError(_text("pool_axes", "one axis or more", "pool_axes=()", remedy))
    return axes, causal_axis


def _spatial(name: str, value: int, received: object, channel_axis: int, rank: int, remedy: str) -> int:
    """Return one axis counted from the front; the batch and the channels are no spatial axes."""
    text, other = f"{name}={received} for rank {rank}", "another axis" if name == "causal_axis" else "other axes"
    if not -rank <= value < rank:
        raise ValueError(_text(name, f"in [-{rank}, {rank}) for rank {rank}", text, remedy))
    if value % rank == 0:
        raise ValueError(_text(name, f"{other} than the batch axis 0", text, remedy))
    if value % rank == channel_axis:
        raise ValueError(_text(name, f"{other} than the channel axis {channel_axis}", text, remedy))
    return value % rank


def check_spread(axis_name: str | tuple[str, ...] | None, pooling: Pooling) -> None:
    """Check that a mesh axis can spread the positions of a mean: the causal axis must lie on one device."""
    if axis_name is not None and not pooling.whole:
        remedy = "Spread the batch or the channels instead: a running mean needs what lies before it."
        received = f"axis_name={axis_name!r} with causal_axis={pooling.causal} as the only pooled axis"
        raise ValueError(_text("axis_name", "None where the mean runs along a single axis", received, remedy))


def check_time(causal_axis: SupportsIndex) -> int:
    """Check the causal axis of a stream, which has one."""
    return _integer("causal_axis", causal_axis, "an integer", _CAUSAL_REMEDY)


def check_state(total: Sequence[Any], count: Sequence[Any], x: Sequence[Any], axis: int, pooling: Pooling) -> None:
    """Check the shapes of a stream's sums and counts against the next x; None fits any extent."""
    kept = tuple(x[i] for i in pooling.kept if i != pooling.causal)
    expected = (x[0], x[axis], *kept), (x[0], *kept)
    for ours, theirs in zip(expected, (total, count), strict=True):
        fits = len(ours) == len(theirs) and all(
            None in pair or pair[0] == pair[1] for pair in zip(ours, theirs, strict=True)
        )
        if not fits:
            remedy = "Each layer has a stream of its own; start one for each batch by ECAState.start."
            text = f"of sums {expected[0]} and counts {expected[1]} for x of shape {tuple(x)}"
            raise ValueError(_text("state", text, f"sums {tuple(total)} and counts {tuple(count)}", remedy))


# --- the residual ------------------------------------------------------------------------------------------------


def check_residual_shape(residual: Sequence[Any], x: Sequence[Any]) -> None:
    """Check that the residual has x's shape; an unknown extent (None) on either side fits."""
    fits = len(residual) == len(x) and all(r is None or s is None or r == s for r, s in zip(residual, x, strict=True))
    if not fits:
        remedy = "The residual is added element by element, without broadcasting; project the shortcut first."
        raise ValueError(_text("residual", f"of x's shape {tuple(x)}", f"shape {tuple(residual)}", remedy))


def check_residual_dtype(residual: str, x: str) -> None:
    """Check the names of both dtypes: a sum of two would have a third."""
    if residual != x:
        remedy = "Cast it to x's dtype; y has x's dtype."
        raise TypeError(_text("residual", f"of x's dtype {x}", f"dtype {residual}", remedy))


def check_residual_device(residual: object, x: object) -> None:
    if residual != x:
        remedy = "Move it to the device of x."
        raise ValueError(_text("residual", f"on x's device {x}", f"device {residual}", remedy))
