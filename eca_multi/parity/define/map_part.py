"""What one native weight holds, and the two ways of carrying arrays: by einops, with our own checks in front."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np
from einops import rearrange

from .axes import SpecError
from .map_sizes import Shape, joined_sizes, sizes_of
from .map_text import Entry, Side, Way, axes_in


@dataclass(frozen=True)
class Part:
    """What one native weight holds, with the sizes of all axes."""

    entry: Entry
    shape: Shape  # native
    sizes: Mapping[str, int] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()  # of the joined weights along the axis that joins them

    def to_native(self, stacks: Iterable[list[np.ndarray]]) -> np.ndarray:
        """Return the sum of the terms, each given as its stack of canonical arrays."""
        first, *others = (self._forward(stack) for stack in stacks)
        for other in others:
            first = first + other
        return first

    def to_canonical(self, array: np.ndarray) -> list[np.ndarray]:
        """Return the canonical arrays of one term; zero where a pick leaves elements out."""
        way = self.entry.way
        if way is None:
            return [array]
        if array.shape != self.shape:
            raise SpecError(f"the array must have the shape {self.shape}. Received: {array.shape}.")
        kept = [axis for axis in self._axes if axis not in way.picks]
        apart = _spaced(array, way.right, kept, {**self.sizes, **_cut(way)})
        apart = np.expand_dims(apart, tuple(self._axes.index(axis) for axis in way.picks))
        for number, axis in enumerate(self._axes):
            if axis in way.flips:
                apart = np.flip(apart, number)
            if axis in way.orders:
                apart = np.take(apart, np.argsort(way.orders[axis]), number)
            if axis in way.spans:
                full = np.zeros([*apart.shape[:number], self.sizes[axis], *apart.shape[number + 1 :]], apart.dtype)
                full[(slice(None),) * number + (slice(*way.spans[axis]),)] = apart
                apart = full
        side = way.left if way.stack is None else ((way.stack,), *way.left)
        pieces = [apart]
        if way.joined:
            pieces = np.split(apart, np.cumsum(self.lengths)[:-1], self._axes.index(way.joined))
        found = [rearrange(piece, f"{_plain(self._axes)} -> {_grouped(side, self._axes)}") for piece in pieces]
        return list(found[0]) if way.stack else found

    @property
    def _axes(self) -> list[str]:
        """All axes one by one, in canonical order; the arrays are taken apart into these."""
        way = self.entry.way or Way((), ())
        return [*([way.stack] if way.stack else []), *axes_in(way.left)]

    def _forward(self, stack: list[np.ndarray]) -> np.ndarray:
        way = self.entry.way
        if way is None:
            return stack[0]
        if way.joined:
            sizes = [{**self.sizes, way.joined: length} for length in self.lengths]
            parts = [_spaced(array, way.left, self._axes, own) for array, own in zip(stack, sizes, strict=True)]
            apart = np.concatenate(parts, self._axes.index(way.joined))
        else:
            stacked, side = (np.stack(stack), ((way.stack,), *way.left)) if way.stack else (stack[0], way.left)
            apart = _spaced(stacked, side, self._axes, self.sizes)
        for number, axis in enumerate(self._axes):
            if axis in way.spans:
                apart = np.take(apart, range(*way.spans[axis]), number)
            if axis in way.orders:
                apart = np.take(apart, way.orders[axis], number)
            if axis in way.flips:
                apart = np.flip(apart, number)
        apart = apart.squeeze(tuple(self._axes.index(axis) for axis in way.picks))
        kept = [axis for axis in self._axes if axis not in way.picks]
        return rearrange(apart, f"{_plain(kept)} -> {_grouped(way.right, kept)}")


def part_of(
    entry: Entry,
    native: str,
    canonical: Mapping[str, Shape],
    shape: Shape | None,
    who: str,
    config: Mapping[str, object],
) -> Part:
    if entry.constant is not None:
        if shape is None:
            raise SpecError(f"{native!r} of {who} must have a shape to hold a constant, and a function's has none.")
        return Part(entry, shape)
    shapes = {name: tuple(canonical[name]) for name in entry.names}
    first, way = shapes[entry.names[0]], entry.way
    for name, other in shapes.items():
        if other != first and not (way and way.joined):
            raise SpecError(
                f"what {native!r} of {who} holds must have one shape. Received: {first} of {entry.names[0]!r} and "
                f"{other} of {name!r}. Join those of unequal length with cat(axis), as in 'a b: k -> k, cat(k)'."
            )
    made, sizes = first, dict[str, int]()
    lengths: tuple[int, ...] = ()
    if way is not None:
        try:
            if way.joined:
                every = [joined_sizes(way, {n: shapes[n] for n in term}, shape, config) for term in entry.terms]
                sizes, lengths = every[0]
                if any(other != every[0] for other in every):
                    raise SpecError("the terms of a sum must be joined from weights of equal shapes.")
            else:
                sizes = sizes_of(way, first, len(entry.terms[0]), shape, config)
        except SpecError as error:
            raise SpecError(f"{native!r} of {who}: {error}") from error
        made = tuple(prod({**sizes, **_cut(way)}[axis] for axis in group) for group in way.right)
    if shape is not None and shape != made:
        raise SpecError(
            f"{native!r} of {who} must have the shape that the map gives, {made}. "
            f"Received: {shape}. Correct the map or the axes of {entry.names[0]!r}."
        )
    return Part(entry, made, sizes, lengths)


def _cut(way: Way) -> dict[str, int]:
    """Return the native size of each axis of which a slice is taken."""
    return {axis: stop - start for axis, (start, stop) in way.slices.items()}


def _spaced(array: np.ndarray, side: Side, axes: list[str], sizes: Mapping[str, int]) -> np.ndarray:
    """Take an array apart into single axes."""
    numbered = {f"a{number}": sizes[axis] for number, axis in enumerate(axes)}
    return rearrange(array, f"{_grouped(side, axes)} -> {_plain(axes)}", **numbered)


def _plain(axes: list[str]) -> str:
    """Name axes for einops by number: it warns of names that are words of Python, as `in` is."""
    return " ".join(f"a{number}" for number in range(len(axes)))


def _grouped(side: Side, axes: list[str]) -> str:
    return " ".join("(" + " ".join(f"a{axes.index(axis)}" for axis in group) + ")" for group in side)
