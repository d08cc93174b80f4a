"""A weight map: carries arrays from canonical names and axes to a layer's own, and back bit for bit."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from .axes import SpecError
from .map_names import Sides, check_direction, check_names, check_used
from .map_part import Part, part_of
from .map_patterns import Entries, expand
from .map_sizes import Shape
from .map_text import Entry, read

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class WeightMap:
    """What each parameter and buffer of a layer holds of a specification's weights and states.

    Attributes:
        who: Whose map it is, for errors.
        parts: Native name -> what it holds; those left out by None are not among them.
        shapes: Canonical name -> shape.
        masks: Canonical name, native name -> the elements that the native weight holds, where those are not all.
    """

    who: str = ""
    parts: Mapping[str, Part] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    masks: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)

    @staticmethod
    def of(
        entries: Entries | None,
        canonical_shapes: Mapping[str, Shape],
        native_shapes: Mapping[str, Shape] | None,
        who: str,
        sizes: Mapping[str, object] | None = None,
        source: str = "the specification",
        shared: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
    ) -> "WeightMap":
        """Read a map and check it against the names and shapes of both sides.

        Args:
            entries: Native name or pattern -> text, or None to leave the native weight out; None means equal names.
            canonical_shapes: Shape of each weight and state of the specification.
            native_shapes: Shape of each parameter and buffer of the layer; None for a function, which has none of
                its own.
            who: Whose map it is, for the errors.
            sizes: Sizes of axes that neither shapes nor the text give.
            source: Whose weights and states the texts are about, for the errors.
            shared: The canonical names, and the native names, that are other names of one array, with its first name:
                one of them is enough.

        Raises:
            SpecError: If the map loses or doubles an element, a name or a shape is wrong, or a text cannot be read.

        Example:
            >>> shapes = {"wq": (8, 2, 4), "wk": (8, 2, 4)}
            >>> fused = WeightMap.of({"w": "wq wk: e h d -> (qk h d) e"}, shapes, {"w": (16, 8)}, "Fused")
            >>> fused.names
            ('w',)
        """
        if entries is None:
            entries = {name: name for name in canonical_shapes}
        sides, (ours, theirs) = Sides(who, source), shared
        check_direction(entries, native_shapes, canonical_shapes, sides)
        texts = expand(entries, native_shapes, canonical_shapes, who)
        check_names(texts, native_shapes, sides, theirs)
        read_ = {native: _read(text, native, who) for native, text in texts.items() if text is not None}
        check_used(read_, canonical_shapes, sides, ours)
        parts = {}
        for native, entry in read_.items():
            given = None if native_shapes is None else tuple(native_shapes[native])
            parts[native] = part_of(entry, native, canonical_shapes, given, who, sizes or {})
        return WeightMap(who, parts, dict(canonical_shapes), _masks(parts, canonical_shapes, who))

    @property
    def names(self) -> tuple[str, ...]:
        """The native names that the map gives values."""
        return tuple(self.parts)

    @property
    def inexact(self) -> frozenset[str]:
        """The native names whose values are not read back: constants, and sums of several weights."""
        return frozenset(n for n, part in self.parts.items() if len(part.entry.terms) != 1)

    @property
    def remarks(self) -> tuple[str, ...]:
        """One line for each entry that is more than another order of the same elements."""
        lines = []
        for native, part in self.parts.items():
            entry = part.entry
            if len(entry.terms) > 1:
                first, *others = (" ".join(term) for term in entry.terms)
                lines.append(
                    f"{native} holds the sum of {first} and {', '.join(others)}, which cannot be taken apart: read "
                    f"back, {first} is the sum and {', '.join(others)} zero."
                )
            if entry.way and entry.way.flips:
                lines.append(f"{native} holds {entry.names[0]} reversed along {', '.join(entry.way.flips)}.")
            if entry.tied:
                lines.append(f"{native} holds {entry.names[0]} once more: their gradients are added.")
            if entry.constant is not None:
                lines.append(f"{native} is the constant {entry.constant}.")
        return tuple(lines)

    def holding(self, canonical: Collection[str]) -> list[str]:
        """Return the native names that hold one of the canonical ones."""
        return [native for native, part in self.parts.items() if any(n in canonical for n in part.entry.names)]

    def held(self, native: str) -> str:
        """Return what a native weight holds, as an error names it."""
        return " + ".join(" ".join(term) for term in self.parts[native].entry.terms) or self.parts[native].entry.text

    def to_native(self, canonical: Arrays) -> dict[str, np.ndarray]:
        """Return the native arrays of canonical ones."""
        return {
            native: np.full(part.shape, _number(part.entry.constant))
            if part.entry.constant is not None
            else part.to_native([[np.asarray(canonical[name]) for name in term] for term in part.entry.terms])
            for native, part in self.parts.items()
        }

    def to_canonical(self, native: Arrays, *, gradients: bool = False) -> dict[str, np.ndarray]:
        """Return the canonical arrays of native ones; of a weight that lies in several, all must be there.

        Of a sum the first weight gets all and the others are zero. With `gradients` each gets the whole, since the
        gradient of a sum is the gradient of each of its terms. Of a weight that lies in several native ones the
        gradients are added; of their values each that differs from the first takes its place, so that it is seen.
        """
        found: dict[str, np.ndarray] = {}
        parts = {name: part for name, part in self.parts.items() if part.entry.terms}
        lacking = {c for n, part in parts.items() if n not in native for c in part.entry.names}
        for name, part in parts.items():
            if name not in native:
                continue
            pieces = part.to_canonical(np.asarray(native[name]))
            for number, term in enumerate(part.entry.terms):
                for canonical, piece in zip(term, pieces, strict=True):
                    if canonical in lacking:
                        continue
                    value = piece if number == 0 or gradients else np.zeros_like(piece)
                    mask = self.masks.get((canonical, name))
                    before = found.get(canonical)
                    if mask is not None and before is not None:
                        value = np.where(mask, value, before)
                    elif before is not None:  # tied
                        value = before + value if gradients else np.where(_same(before, value), before, value)
                    found[canonical] = value
        return {name: found[name] for name in self.shapes if name in found}


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tell which elements have equal bytes, whatever their kind."""
    first, second = (np.ascontiguousarray(array).view(f"V{array.dtype.itemsize}") for array in (one, other))
    return np.reshape(first == second, one.shape)


def _number(value: float | None) -> np.ndarray:
    return np.asarray(value) if isinstance(value, int) else np.asarray(value, np.float32)


def _read(text: str, native: str, who: str) -> Entry:
    try:
        return read(text)
    except SpecError as error:
        raise SpecError(f"{native!r} of {who}: {error}") from error


def _masks(parts: Mapping[str, Part], shapes: Mapping[str, Shape], who: str) -> dict[tuple[str, str], np.ndarray]:
    """Return which elements each picking part holds, and refuse a map that loses or doubles one."""
    masks = {}
    counts: dict[str, np.ndarray] = {}
    for native, part in parts.items():
        if not part.entry.is_part:
            continue
        pieces = part.to_canonical(np.ones(part.shape, bool))
        for term in part.entry.terms:
            for name, piece in zip(term, pieces, strict=True):
                masks[name, native] = piece
                counts[name] = counts.get(name, 0) + piece.astype(np.int32)
    for name, count in counts.items():
        lost, doubled = int((count == 0).sum()), int((count > 1).sum())
        if lost or doubled:
            what = f"{lost} that nothing holds" if lost else f"{doubled} that are held twice"
            raise SpecError(
                f"the weight map of {who} must use each of the {count.size} elements of {name!r} once. "
                f"Received: {what}."
            )
    return masks
