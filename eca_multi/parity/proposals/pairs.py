"""Which weights of two models belong together: by kinds, shapes, names, and order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from math import prod

import numpy as np

from .names import ORDERS, Weight, likeness
from .ways import Way, ways

_NEVER = 1e6  # the cost of a pair that does not fit
_TRANSPOSED = {"transpose", "transposed", "deconv", "deconvolution"}


@dataclass(frozen=True)
class Choice:
    """What a weight of the port may hold, the likeliest first, each as a map's text.

    Attributes:
        native: Its name in the port.
        texts: The entries that fit.
        reference: The reference's weights in it.
        why: What is open, for people; "" where nothing is.
    """

    native: str
    texts: tuple[str, ...]
    reference: tuple[str, ...]
    why: str = ""


@dataclass(frozen=True)
class Pairing:
    """The choices by the port's order, what is left of both models, and pairs that order alone decided."""

    choices: tuple[Choice, ...]
    left_reference: tuple[Weight, ...]
    left_port: tuple[Weight, ...]
    by_order: tuple[tuple[str, ...], ...] = ()


def pair(reference: Sequence[Weight], port: Sequence[Weight], turned: str, flips: bool = False) -> Pairing:
    """Pair the weights of two models.

    Args:
        reference, port: The weights, in the order of the models.
        turned: Whether kernels change their order of axes between the two; see `ways`.
        flips: Whether the kernel of a transposed convolution is usually reversed between the two.
    """
    matched = _assigned(reference, port, turned)
    undecided = [*_undecided(reference, port, matched)]
    for group in undecided:  # in the order of the models, whatever weights of other names lie between
        matched |= dict(zip(sorted(group), sorted(matched[p] for p in group), strict=True))
    choices = {p: _whole(reference[r], port[p], turned, flips) for p, r in matched.items()}
    used = set(matched.values())
    rest_r = [w for number, w in enumerate(reference) if number not in used]
    rest_p = [w for number, w in enumerate(port) if number not in choices]
    position = {w.path: number for number, w in enumerate(port)}
    for build in (_fused, _taken_apart):
        for choice in build(rest_r, rest_p, turned):
            choices[position[choice.native]] = choice
        taken = {name for choice in choices.values() for name in choice.reference}
        rest_r = [w for w in rest_r if w.path not in taken]
        rest_p = [w for w in rest_p if position[w.path] not in choices]
    by_name = {w.path: w for w in reference}
    for number, choice in choices.items():
        choices[number] = _with_sum(choice, by_name, rest_r)
    ordered = tuple(choices[number] for number in sorted(choices))
    taken = {name for choice in ordered for name in choice.reference}
    rest_r = [w for w in rest_r if w.path not in taken]
    return Pairing(
        ordered, tuple(rest_r), tuple(rest_p), tuple(tuple(port[p].path for p in sorted(group)) for group in undecided)
    )


def _assigned(reference: Sequence[Weight], port: Sequence[Weight], turned: str) -> dict[int, int]:
    """Return the port's positions with the reference's, so that names, and then order, agree best."""
    if not reference or not port:
        return {}
    costs = np.full((len(port), len(reference)), _NEVER)
    ranks = [_ranks(reference), _ranks(port)]
    for p, theirs in enumerate(port):
        for r, ours in enumerate(reference):
            if _fits(ours, theirs, turned):
                order = abs(ranks[0][r] - ranks[1][p])
                costs[p, r] = -likeness(ours, theirs) + 0.5 * order
    optimize = import_module("scipy.optimize")  # here, since SciPy changes Python's warning filters
    rows, columns = optimize.linear_sum_assignment(costs)
    return {int(p): int(r) for p, r in zip(rows, columns, strict=True) if costs[p, r] < _NEVER}


def _fits(ours: Weight, theirs: Weight, turned: str) -> bool:
    if ours.kind != theirs.kind and ours.kind and theirs.kind:
        return False
    if ours.part != theirs.part and ours.part and theirs.part:
        return False
    if ours.part != theirs.part and len(ours.shape) != len(theirs.shape):
        return False  # one part of a fused weight, beside the others, is no whole
    return prod(ours.shape) == prod(theirs.shape) and bool(ways(ours.shape, theirs.shape, turned))


def _ranks(weights: Sequence[Weight]) -> list[float]:
    """Return the place of each weight among those of its kind and size, from 0 to 1; numbers order equal words."""
    places: list[float] = [0.0] * len(weights)
    groups: dict[object, list[int]] = {}
    for number, weight in enumerate(weights):
        groups.setdefault((weight.kind, prod(weight.shape)), []).append(number)
    for members in groups.values():
        ordered = _natural(weights, members)
        for place, number in enumerate(ordered):
            places[number] = place / max(len(ordered) - 1, 1)
    return places


def _natural(weights: Sequence[Weight], members: list[int]) -> list[int]:
    """Sort by numbers where the words are the same, since a name of Flax sorts 10 before 2."""
    same = {weights[number].words for number in members}
    return sorted(members, key=lambda n: weights[n].numbers) if len(same) == 1 else members


def _whole(ours: Weight, theirs: Weight, turned: str, flips: bool) -> Choice:
    turned = "" if ours.is_table or theirs.is_table else turned
    found = ways(ours.shape, theirs.shape, turned)
    transposed = _TRANSPOSED & {*ours.words, *theirs.words} and len(ours.shape) >= 3
    texts = [_text((ours.path,), way.of_transposed if transposed else way) for way in found]
    if transposed:
        axes = [found[0].left[axis] for axis in _space(len(ours.shape), turned)]
        flip = f"flip({' '.join(group[0] for group in axes if group)})"
        texts = [each for text in texts for each in _flipped(text, flip, flips)]
    why = f"{len(texts)} orders of axes fit the shape {theirs.shape}" if len(texts) > 1 else ""
    return Choice(theirs.path, tuple(texts), (ours.path,), why)


def _flipped(text: str, flip: str, flips: bool) -> tuple[str, str]:
    joined = f"{text}, {flip}"
    return (joined, text) if flips else (text, joined)


def _space(count: int, turned: str) -> range:
    return range(count - 2) if turned == "to" else range(2, count)


def _text(names: Iterable[str], way: Way, *clauses: str) -> str:
    joined = " ".join(names)
    return ", ".join((f"{joined}: {way.text}" if way.text or clauses else joined, *clauses))


def _axis(parts: Iterable[Weight]) -> str:
    """Name the axis along which parts lie."""
    names = {w.part for w in parts}
    return "qkv" if names == set(ORDERS[0]) else "gate" if any(names == set(order) for order in ORDERS) else "part"


def _fused(reference: Sequence[Weight], port: Sequence[Weight], turned: str) -> list[Choice]:
    """Put several weights of the reference into one of the port."""
    choices = []
    for theirs in port:
        fitting = []
        for parts in _families(reference):
            one, count = parts[0], len(parts)
            if one.kind not in (theirs.kind, "") or prod(one.shape) * count != prod(theirs.shape):
                continue
            texts = [
                _text([w.path for w in parts], way.from_parts(_axis(parts), axis))
                for axis, shape in _parts_of(theirs.shape, count)
                for way in ways(one.shape, shape, turned)
            ]
            if texts:
                fitting.append((likeness(one, theirs), texts, parts))
        if fitting:
            _, texts, parts = max(fitting, key=lambda item: item[0])
            choices.append(_of_parts(theirs.path, texts, parts))
            reference = [w for w in reference if w not in parts]
    return choices


def _taken_apart(reference: Sequence[Weight], port: Sequence[Weight], turned: str) -> list[Choice]:
    """Take one weight of the reference, or a sum of two, apart into several of the port."""
    choices: list[Choice] = []
    families = _families(port)
    for ours in reference:
        best: tuple[float, list[Weight]] | None = None
        for parts in families:
            one, count = parts[0], len(parts)
            fits = one.kind == ours.kind and prod(one.shape) * count == prod(ours.shape)
            if fits and any(ways(shape, one.shape, turned) for _, shape in _parts_of(ours.shape, count)):
                score = likeness(ours, replace(one, words=tuple(w for w in one.words if w != one.part)))
                best = max(best or (score, parts), (score, parts), key=lambda item: item[0])
        if best is None:
            continue
        parts, count = best[1], len(best[1])
        families = [family for family in families if family is not parts]
        name = _axis(parts)
        for position, theirs in enumerate(parts):
            texts = [
                _text([ours.path], way.of_part(name, axis), f"{name}[{position}]", f"{name}={count}")
                for axis, shape in _parts_of(ours.shape, count)
                for way in ways(shape, theirs.shape, turned)
            ]
            choices.append(_of_parts(theirs.path, texts, parts, (ours.path,)))
    return choices


def _of_parts(native: str, texts: list[str], parts: Sequence[Weight], held: tuple[str, ...] = ()) -> Choice:
    known = any({w.part for w in parts} == set(order) for order in ORDERS)
    whys = [] if known else [f"the order of {', '.join(w.path for w in parts)} is that of the names"]
    whys += [f"{len(texts)} ways fit the shapes"] if len(texts) > 1 else []
    return Choice(native, tuple(texts), held or tuple(w.path for w in parts), "; ".join(whys))


def _families(weights: Sequence[Weight]) -> list[list[Weight]]:
    """Return the groups of weights that may be parts of one, in the usual order of the parts."""
    groups: dict[object, list[Weight]] = {}
    for weight in weights:
        groups.setdefault(weight.family, []).append(weight)
    families = []
    for members in groups.values():
        parts = {w.part: w for w in members}
        order = next((order for order in ORDERS if set(order) == set(parts)), None)
        if order and len(members) == len(order):
            members = [parts[part] for part in order]
        if len(members) > 1:
            families.append(members)
    return families


def _parts_of(shape: tuple[int, ...], count: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return the axes along which a weight may consist of parts, with the shape of a part."""
    return [
        (axis, (*shape[:axis], size // count, *shape[axis + 1 :]))
        for axis, size in enumerate(shape)
        if size % count == 0 and size > 1
    ]


def _with_sum(choice: Choice, reference: Mapping[str, Weight], left: Sequence[Weight]) -> Choice:
    """Add a bias that is left over to its sibling: torch has two biases where others have one."""
    first = reference[choice.reference[0]]
    for other in left if first.kind == "bias" and len(choice.reference) == 1 else ():
        apart = set(other.words) ^ set(first.words)
        alike = (other.kind, other.shape, other.numbers) == (first.kind, first.shape, first.numbers)
        if alike and apart and apart <= {"recurrent", "entering"}:
            both = sorted((first, other), key=lambda w: "recurrent" in w.words)
            names = tuple(w.path for w in both)
            texts = tuple(" + ".join(names) + text[len(first.path) :] for text in choice.texts)
            return Choice(choice.native, texts, names, choice.why)
    return choice


def _undecided(
    reference: Sequence[Weight], port: Sequence[Weight], matched: Mapping[int, int]
) -> Iterable[tuple[int, ...]]:
    """Yield the groups of positions in the port whose names do not tell them apart, so that their order decided."""
    groups: dict[object, list[tuple[int, int]]] = {}
    for p, r in matched.items():
        groups.setdefault((port[p].kind, port[p].shape, reference[r].shape), []).append((p, r))
    for pairs in groups.values():
        seen: set[int] = set()
        for p, r in pairs:
            own = likeness(reference[r], port[p])
            rivals = [
                q
                for q, s in pairs
                if q != p
                and q not in seen
                and likeness(reference[s], port[p]) + likeness(reference[r], port[q])
                >= own + likeness(reference[s], port[q])
                and not _counted(reference, port, (p, r), (q, s))
            ]
            if rivals and p not in seen:
                group = (p, *rivals)
                seen |= set(group)
                yield group


def _counted(reference: Sequence[Weight], port: Sequence[Weight], one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether equal words with numbers tell two pairs apart: block0 and block1 against blocks.0 and blocks.1."""
    (p, r), (q, s) = one, other
    numbered = port[p].words == port[q].words and reference[r].words == reference[s].words
    if not numbered or port[p].numbers == port[q].numbers or reference[r].numbers == reference[s].numbers:
        return False
    return (port[p].numbers < port[q].numbers) == (reference[r].numbers < reference[s].numbers)
