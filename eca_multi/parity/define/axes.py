"""Axis strings: the order of a tensor's axes, and the way from one order to another.

"N H W C" names four axes, and "NHWC" is the same in short (capitals alone are one axis each); "1" is an axis
of length one, and "*" in a layout stands for all axes that the layout does not name. A rearrangement moves axes, and
adds or drops axes of length one. It never merges, splits or flips axes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eca_multi._printable import PrintableError


class SpecError(PrintableError, ValueError):
    """A specification, a weight map or an adapter that cannot be right, found before anything is compared."""


Axes = tuple[str, ...]


def parse(text: str | Sequence[str | int]) -> Axes:
    """Return the axes of "N H W C", "NHWC" or ("N", 3)."""
    if not isinstance(text, str):
        return tuple(str(axis) for axis in text)
    return tuple(text) if re.fullmatch(r"[A-Z*]+", text) else tuple(text.split())


def shape_of(axes: Axes, sizes: Mapping[str, Any], what: str) -> tuple[int, ...]:
    """Return the sizes of axes: `sizes` gives that of a named axis, a number is its own size."""
    missing = [axis for axis in axes if not axis.isdigit() and not isinstance(sizes.get(axis), int)]
    if missing:
        raise SpecError(
            f"each axis of {what} must have a size. Received: {' '.join(axes)!r} and no integer {missing[0]!r} in "
            f"config. Add it, as in config={{{missing[0]!r}: 8}}."
        )
    shape = tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in axes)
    for axis, size in zip(axes, shape, strict=True):
        if size < 1 and (axis, size) != ("N", 0):  # a batch may be empty
            raise SpecError(f"each axis of {what} must have a size of 1 or more. Received: {size} for {axis!r}.")
    return shape


def order(axes: Axes, layout: Axes) -> Axes:
    """Return `axes` in the order of `layout`, or unchanged where the layout lacks one of them.

    A "*" of the layout stands for all axes that the layout does not name, in their own order.
    """
    rest = tuple(axis for axis in axes if axis not in layout)
    if rest and "*" not in layout:
        return axes
    ordered: list[str] = []
    for axis in layout:
        ordered += rest if axis == "*" else [axis] if axis in axes else []
    return tuple(ordered)


@dataclass(frozen=True)
class Rearrangement:
    """From `source` order to `target` order: a permutation, with axes of length one dropped and added."""

    source: Axes
    target: Axes

    def __post_init__(self) -> None:
        named = [[axis for axis in axes if axis != "1"] for axes in (self.source, self.target)]
        if sorted(named[0]) != sorted(named[1]) or any(len(set(axes)) < len(axes) for axes in named):
            raise SpecError(
                "a rearrangement must be a permutation: each axis once on either side, 1 for an axis of length one. "
                f"Received: {' '.join(self.source)!r} -> {' '.join(self.target)!r}."
            )

    def __call__(self, array: np.ndarray) -> np.ndarray:
        singletons = tuple(i for i, axis in enumerate(self.source) if axis == "1")
        if array.ndim != len(self.source) or any(array.shape[i] != 1 for i in singletons):
            raise SpecError(
                f"the array must have the axes {' '.join(self.source)!r}. Received: shape {array.shape}. "
                "Correct the left side of the map."
            )
        names = [axis for axis in self.source if axis != "1"]
        wanted = [axis for axis in self.target if axis != "1"]
        moved = array.squeeze(singletons).transpose([names.index(axis) for axis in wanted])
        added = tuple(i for i, axis in enumerate(self.target) if axis == "1")
        return np.expand_dims(moved, added)

    @property
    def inverse(self) -> "Rearrangement":
        return Rearrangement(self.target, self.source)
