"""The `pool_axes` and `causal_axis` that a user names for a whole network, in the layout of each site.

A user counts axes in the framework's default layout, for a site of the same rank. A spatial axis has the same place
among the spatial axes in every layout: axis 2 of (N, C, T, H, W) is T, and so is axis 1 of (N, T, H, W, C).
"""

from collections.abc import Sequence
from typing import NamedTuple

from eca_multi._pooling import check_pooling

DEFAULT_LAYOUT = {"torch": "channels_first"}  # the others have (N, *S, C)
_FIRST = {"channels_first": 2, "channels_last": 1}  # the first spatial axis, counted from the front
_LAST = {"channels_first": -1, "channels_last": -2}  # the last one, counted from the end
_CHANNELS = {"channels_first": 1, "channels_last": -1}
_SITE = (
    "{error} The axes count in {layout}; {path!r} has rank {rank}: give it axes of its own, "
    "overrides={{{path!r}: {{...}}}}, or leave it out with exclude."
)


class Axes(NamedTuple):
    """Over which axes one ECA averages, and along which of them its mean runs; as the layer's options."""

    pool_axes: tuple[int, ...] | None = None
    causal_axis: int | None = None


def default_layout(framework: str) -> str:
    return DEFAULT_LAYOUT.get(framework, "channels_last")


def moved(axis: int, source: str, target: str) -> int:
    """Return a spatial axis of one layout in another; an axis that is counted from the end stays so counted.

    Example:
        >>> from eca_multi.surgery.axes import moved
        >>> moved(2, "channels_first", "channels_last"), moved(-1, "channels_first", "channels_last")
        (1, -2)
    """
    places = _LAST if axis < 0 else _FIRST
    return axis - places[source] + places[target]


def place_of(axis: int, layout: str, rank: int) -> int:
    """Return the place of an axis among the spatial ones, from 0.

    Example:
        >>> from eca_multi.surgery.axes import place_of
        >>> place_of(-1, "channels_first", 5)
        2
    """
    return axis % rank - _FIRST[layout]


def axis_at(place: int, layout: str) -> int:
    """Return the axis, counted from the front, of a place among the spatial axes."""
    return place + _FIRST[layout]


def check_axes(framework: str, asked: Axes) -> None:
    """Check what can be checked before the rank of a site is known: as for the lowest rank that has these axes.

    Raises:
        ValueError: If an axis holds the batch or the channels, is repeated, or `causal_axis` is not pooled.
    """
    named = [*(asked.pool_axes or ()), *([] if asked.causal_axis is None else [asked.causal_axis])]
    if not named or (min(named) < 0 < max(named)):  # which of these are the same, a rank tells
        return
    layout = default_layout(framework)
    behind = 2 if layout == "channels_last" else 1
    rank = max(3, *(axis + behind if axis >= 0 else 3 - behind - axis for axis in named))
    check_pooling(*asked, _CHANNELS[layout] % rank, (None,) * rank)


def axes_at(framework: str, asked: Axes, path: str, layout: str, shape: Sequence[int | None] = ()) -> Axes:
    """Return the axes in the layout of a site.

    Args:
        framework: Whose default layout `asked` counts in.
        asked: What the user named for the network, or for this site.
        path, layout: Of the site.
        shape: Of the site's output; () if its rank is unknown, which the layer then checks at its first call.

    Raises:
        ValueError: If a tensor of this rank has no such spatial axes; the message names the site.

    Example:
        >>> from eca_multi.surgery.axes import Axes, axes_at
        >>> axes_at("torch", Axes((2, 3), 2), "norm", "channels_last", (1, 9, 8, 8, 16))
        Axes(pool_axes=(1, 2), causal_axis=1)
    """
    source, rank = default_layout(framework), len(shape)
    if rank and asked != Axes():
        try:
            check_pooling(*asked, _CHANNELS[source] % rank, (None,) * rank)
        except ValueError as error:
            words = "(N, C, *S)" if source == "channels_first" else "(N, *S, C)"
            raise ValueError(_SITE.format(error=error, layout=words, path=path, rank=rank)) from None
    pool = None if asked.pool_axes is None else tuple(moved(axis, source, layout) for axis in asked.pool_axes)
    return Axes(pool, None if asked.causal_axis is None else moved(asked.causal_axis, source, layout))
