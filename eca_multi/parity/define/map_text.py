"""The text of a map's entry: what one native weight holds, in einops' language.

"w"                                            the canonical weight w as it is
"w: k -> 1 1 k"                                w with its axes moved, merged or split
"wq wk wv: e h d -> (qkv h d) e"               three weights, stacked along the new axis qkv
"wq wk wv: e h d -> (h d) e, cat(h)"           three weights, joined along h, of which each has its own number
"w: (qkv h d) e -> e h d, qkv[1]"              the part of w at position 1 of qkv
"w: (h d) e -> e h d, h[8:10]"                 the part of w at positions 8 and 9 of h
"w: (gate h) e -> e (gate h), gate(r z n -> z r n)"     the parts of an axis in another order
"w: kh kw i o -> kh kw o i, flip(kh kw)"       reversed along axes
"w: (h d) -> h d, h=4"                         the size of an axis that no shape gives
"b_ih + b_hh"                                  the sum of two weights
"w: v e -> e v, tied", "w: tied"               w once more: a weight that is one on the left, and kept twice
"var: load only"                               a state that is loaded, and not compared after a call
"= 0"                                          a constant
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from .axes import SpecError

Group = tuple[str, ...]  # the axes that one axis of an array is made of: "(h d)" is ("h", "d"), and "1" is ()
Side = tuple[Group, ...]

_AXES = re.compile(r"\s*(?:\(([^()]*)\)|([^\s()]+))")
_NAME = r"[A-Za-z_]\w*"
_FLIP = re.compile(r"flip\(([^()]*)\)")
_ORDER = re.compile(rf"({_NAME})\s*\((.*)->(.*)\)")
_PICK = re.compile(rf"({_NAME})\s*\[\s*(\d+)\s*\]")
_CAT = re.compile(rf"cat\(\s*({_NAME})\s*\)")
_SLICE = re.compile(rf"({_NAME})\s*\[\s*(\d+)\s*:\s*(\d+)\s*\]")
_WORDS = _TIED, _LOAD_ONLY = "tied", "load only"
_SIZE = re.compile(rf"({_NAME})\s*=\s*(\d+)")


@dataclass(frozen=True)
class Way:
    """The way from canonical axes to native ones.

    Attributes:
        left: The axes of each canonical weight.
        right: The axes of the native one.
        stack: The axis along which several canonical weights are stacked, or None.
        sizes: The sizes that the text gives.
        orders: Axis -> for each native position the canonical one.
        flips: The axes to reverse.
        picks: Axis -> the position that is taken; the axis is on the left alone.
        slices: Axis -> the first position that is taken, and the one after the last.
        joined: The axis along which several canonical weights are joined, each with a length of its own, or None.
    """

    left: Side
    right: Side
    stack: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    orders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    flips: tuple[str, ...] = ()
    picks: Mapping[str, int] = field(default_factory=dict)
    slices: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    joined: str | None = None

    @property
    def spans(self) -> dict[str, tuple[int, int]]:
        """The positions that are taken along an axis: a slice, or one position, whose axis is on the left alone."""
        return {**self.slices, **{axis: (position, position + 1) for axis, position in self.picks.items()}}


@dataclass(frozen=True)
class Entry:
    """What one native weight holds: the sum of `terms`, each some canonical weights stacked or joined; or a constant.

    `tied` says that another native weight holds the same; `load_only`, that a state is not compared after a call.
    """

    text: str
    terms: tuple[tuple[str, ...], ...] = ()
    way: Way | None = None  # None keeps the axes
    constant: float | None = None
    tied: bool = False
    load_only: bool = False

    @property
    def is_part(self) -> bool:
        """Whether the native weight holds some elements of a canonical one."""
        return self.way is not None and bool(self.way.spans)

    @property
    def names(self) -> list[str]:
        return [name for term in self.terms for name in term]


def read(text: str) -> Entry:
    """Return the entry that a text describes.

    Raises:
        SpecError: If the text describes none.

    Example:
        >>> read("wq wk wv: e h d -> (qkv h d) e").way.stack
        'qkv'
    """
    if text.strip().startswith("="):
        return Entry(text, constant=_constant(text))
    held, colon, rest = text.partition(":")
    terms = tuple(tuple(term.split()) for term in held.split("+"))
    if not all(terms):
        raise SpecError(f"an entry must name the weights that it holds. Received: {text!r}.")
    if not colon:
        if len(terms[0]) > 1:
            raise SpecError(
                f"several weights must be stacked along an axis, as in 'a b: k -> two k'. Received: {text!r}."
            )
        return Entry(text, terms)
    words = {word: word in _parts(rest) for word in _WORDS}
    rest_ = [part for part in _parts(rest) if part not in words]
    entry = Entry(text, terms, tied=words[_TIED], load_only=words[_LOAD_ONLY])
    if not rest_ and len(terms) == len(terms[0]) == 1:
        return entry
    axes, *clauses = rest_ or [""]
    left, arrow, right = axes.partition("->")
    if not arrow:
        raise SpecError(f"it must map as 'name: axes -> axes'. Received: {text!r}.")
    way = _way(_side(left), _side(right), clauses, {len(term) for term in terms})
    if words[_TIED] and way.spans:
        raise SpecError(f"a weight that is tied must be a whole one. Received: {text!r}.")
    return replace(entry, way=way)


def written(side: Side) -> str:
    """Return the text of one side of the arrow."""
    return " ".join("1" if not group else group[0] if len(group) == 1 else f"({' '.join(group)})" for group in side)


def axes_in(side: Side) -> list[str]:
    """Return the names of all axes of a side, from left to right."""
    return [axis for group in side for axis in group]


def _way(left: Side, right: Side, clauses: list[str], counts: set[int]) -> Way:
    sizes: dict[str, int] = {}
    orders: dict[str, tuple[int, ...]] = {}
    picks: dict[str, int] = {}
    slices: dict[str, tuple[int, int]] = {}
    flips: list[str] = []
    joined: list[str] = []
    for clause in clauses:
        if match := _FLIP.fullmatch(clause):
            flips += match[1].split()
        elif match := _ORDER.fullmatch(clause):
            orders[match[1]] = _order(match[1], match[2].split(), match[3].split())
            sizes[match[1]] = len(orders[match[1]])
        elif match := _CAT.fullmatch(clause):
            joined.append(match[1])
        elif match := _SLICE.fullmatch(clause):
            slices[match[1]] = int(match[2]), int(match[3])
        elif match := _PICK.fullmatch(clause):
            picks[match[1]] = int(match[2])
        elif match := _SIZE.fullmatch(clause):
            sizes[match[1]] = int(match[2])
        else:
            raise SpecError(
                "after the axes may come flip(axis), axis(a b -> b a), axis[0], axis[0:2], cat(axis), axis=4, tied and "
                f"load only, parted by commas. Received: {clause!r}."
            )
    sources, targets = axes_in(left), axes_in(right)
    new = [axis for axis in targets if axis not in sources]
    if joined and (counts == {1} or len(joined) > 1):
        raise SpecError(
            f"cat(axis) must join several weights along one axis. Received: cat({') and cat('.join(joined)})."
        )
    stacked = counts != {1} and not joined
    balanced = sorted([*sources, *(new[:1] if stacked else ())]) == sorted([*targets, *picks])
    if not balanced or len(set(sources)) < len(sources) or len(set(targets)) < len(targets):
        raise SpecError(
            "a rearrangement must be a permutation: each axis once on either side, 1 for an axis of length one. An "
            "axis along which several weights are stacked is on the right alone, and one with a position, as in "
            f"qkv[0], on the left alone. Received: {written(left)!r} -> {written(right)!r}."
        )
    if stacked and (not new or len(counts) > 1):
        raise SpecError(
            f"several weights must be stacked along a new axis on the right, as in 'a b: k -> two k', or joined along "
            f"one that they have, as in 'a b: k -> k, cat(k)'. Received: {written(left)!r} -> {written(right)!r}."
        )
    if doubled := [axis for axis in (*slices, *joined) if [*slices, *joined, *orders, *picks].count(axis) > 1]:
        raise SpecError(f"axis[0:2] and cat(axis) must stand alone for an axis. Received: another for {doubled[0]!r}.")
    for axis in (*flips, *orders, *picks, *slices, *joined, *sizes):
        if axis not in (*sources, *targets):
            raise SpecError(f"what follows the axes must be about one of them. Received: {axis!r}.")
    return Way(
        left, right, new[0] if stacked else None, sizes, orders, tuple(flips), picks, slices, next(iter(joined), None)
    )


def _order(axis: str, before: list[str], after: list[str]) -> tuple[int, ...]:
    if sorted(before) != sorted(after) or len(set(before)) < len(before) or not before:
        raise SpecError(
            f"the order along {axis!r} must be a permutation: each part once before and after the arrow. "
            f"Received: {' '.join(before)!r} -> {' '.join(after)!r}."
        )
    return tuple(before.index(part) for part in after)


def _side(text: str) -> Side:
    text = text.strip()
    if re.fullmatch(r"[A-Z]+", text):  # "NCHW": capitals alone are one axis each
        return tuple((axis,) for axis in text)
    position, groups = 0, []
    while position < len(text):
        match = _AXES.match(text, position)
        if match is None:
            raise SpecError(f"axes must be names, 1 and groups in parentheses. Received: {text!r}.")
        groups.append(tuple(match[1].split()) if match[2] is None else (match[2],))
        position = match.end()
    groups = [tuple(axis for axis in group if axis != "1") for group in groups]
    for axis in axes_in(tuple(groups)):
        if not re.fullmatch(_NAME, axis):
            raise SpecError(
                "a rearrangement must be a permutation: axes are names, 1 and groups in parentheses. "
                f"Received: {axis!r} in {text!r}."
            )
    return tuple(groups)


def _parts(text: str) -> Iterator[str]:
    return (part.strip() for part in text.split(","))


def _constant(text: str) -> float:
    number = text.strip()[1:].strip()
    try:
        return int(number) if re.fullmatch(r"[+-]?\d+", number) else float(number)
    except ValueError as error:
        raise SpecError(f"a constant must be a number, as in '= 0'. Received: {text!r}.") from error
