"""The sizes of the axes of a weight map's entry."""

from collections.abc import Mapping
from math import prod

from .axes import SpecError
from .map_text import Way, axes_in, written

Shape = tuple[int, ...]


def sizes_of(
    way: Way, canonical: Shape, stacked: int, native: Shape | None, config: Mapping[str, object]
) -> dict[str, int]:
    """Return the size of every axis: by the text, by the shapes, then by the configuration."""
    sizes = dict(way.sizes)
    if way.stack:
        sizes[way.stack] = stacked
    if len(canonical) != len(way.left) or any(
        n != 1 for n, group in zip(canonical, way.left, strict=True) if not group
    ):
        raise SpecError(
            f"the array must have the axes {written(way.left)!r}. Received: shape {canonical}. "
            "Correct the left side of the map."
        )
    known = [*zip(way.left, canonical, strict=True)]
    if native is not None and len(native) == len(way.right):
        right = [tuple(_cut(axis) if axis in way.slices else axis for axis in group) for group in way.right]
        known += [(group, n) for group, n in zip(right, native, strict=True) if way.joined not in group]
    sizes |= {_cut(axis): stop - start for axis, (start, stop) in way.slices.items()}
    for _ in known:  # each round may give what another group lacks
        for group, size in known:
            missing = [axis for axis in group if axis not in sizes]
            rest = prod(sizes[axis] for axis in group if axis in sizes)
            if len(missing) == 1 and rest and size % rest == 0:
                sizes[missing[0]] = size // rest
        missing = [axis for axis in axes_in(way.left) if axis not in sizes]
        if missing and isinstance(config.get(missing[0]), int):
            sizes[missing[0]] = int(str(config[missing[0]]))
    missing = [axis for axis in axes_in(way.left) if axis not in sizes]
    if missing:
        raise SpecError(
            f"the axis {missing[0]!r} must have a size. Received: none. Add it after the axes, as in "
            f"', {missing[0]}=8'."
        )
    for group, size in zip(way.left, canonical, strict=True):
        product = prod(sizes[axis] for axis in group)
        if group and product != size:
            raise SpecError(
                f"the axis {written((group,))!r} must have the size {size} of the weight. Received: {product}, from "
                f"{', '.join(f'{axis}={sizes[axis]}' for axis in group)}."
            )
    for axis, (start, stop) in way.slices.items():
        if not start < stop <= sizes[axis]:
            raise SpecError(
                f"the positions along {axis!r} must be some of its {sizes[axis]}, the first before the last. "
                f"Received: [{start}:{stop}]."
            )
    for axis, position in way.picks.items():
        if position >= sizes[axis]:
            raise SpecError(
                f"the position along {axis!r} must be less than its size, {sizes[axis]}. Received: {position}."
            )
    return {axis: sizes[axis] for axis in [*axes_in(way.left), *([way.stack] if way.stack else [])]}


def joined_sizes(
    way: Way, canonical: Mapping[str, Shape], native: Shape | None, config: Mapping[str, object]
) -> tuple[dict[str, int], tuple[int, ...]]:
    """Return the size of every axis of joined weights, and the length of each along the axis that joins them."""
    every = {name: sizes_of(way, shape, 1, native, config) for name, shape in canonical.items()}
    (first, sizes), *others = every.items()
    for name, other in others:
        if unlike := [axis for axis in sizes if axis != way.joined and sizes[axis] != other[axis]]:
            axis = unlike[0]
            raise SpecError(
                f"weights that are joined along {way.joined!r} must agree along all other axes. Received: "
                f"{axis}={sizes[axis]} of {first!r} and {axis}={other[axis]} of {name!r}."
            )
    lengths = tuple(found[str(way.joined)] for found in every.values())
    return {**sizes, str(way.joined): sum(lengths)}, lengths


def _cut(axis: str) -> str:
    """Name what is left of an axis of which a slice is taken."""
    return f"{axis}[]"
