"""The probe: change later positions of the inputs, and see whether earlier outputs move; then look at the sites.

It needs no framework: `run` takes the inputs as arrays and returns arrays. A network that is not causal costs one run
for itself and one for each axis that an output shares with an input; without such an axis nothing runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .axes import place_of
from .causality import Evidence, Found, grouped
from .entry import ECAEntry

Array = NDArray[Any]
ROUNDING = 16  # units in the last place of the largest value: a convolution by tiles rounds neighbours together
SEED = 16


class Outcome(NamedTuple):
    """What one run returns: the network's outputs, and the output of each site that was asked for, by path."""

    outputs: Sequence[Array]
    sites: Mapping[str, Array]


Run = Callable[[Sequence[Array], Sequence[str]], Outcome]  # of the inputs, and of the paths of the sites


@dataclass(frozen=True)
class Pair:
    """An axis of an input, and one of an output that is as long."""

    input: int
    axis: int
    output: int
    output_axis: int


def probe(run: Run, inputs: Sequence[Array], outputs: Sequence[Array], entries: Sequence[ECAEntry]) -> Found:
    """Look for axes along which no output sees a later input, and for sites where a mean would change that.

    Args:
        run: Runs the network in inference mode, and leaves it and the random state as they were.
        inputs: The tensors that the network is called with. Those of numbers are changed; axis 0 is the batch.
        outputs: What it returns for them.
        entries: The sites to look at; their layouts tell which axes of their outputs are spatial.

    Returns:
        The evidence, one for each axis of the sites and kind.

    Example:
        >>> import numpy as np
        >>> from eca_multi.surgery.causal_probe import Outcome, probe
        >>> from eca_multi.surgery.entry import ECAEntry
        >>> def run(inputs, paths):
        ...     y = np.cumsum(inputs[0], axis=2)
        ...     return Outcome([y], {path: y for path in paths})
        >>> x = np.ones((1, 2, 7))
        >>> [(e.how, e.place) for e in probe(run, [x], run([x], []).outputs, [ECAEntry("conv")]).evidence]
        [('causal', 0)]
    """
    could_tell = False
    evidence: list[Evidence] = []
    pairs = _pairs(inputs, outputs)
    for number, axis in dict.fromkeys((pair.input, pair.axis) for pair in pairs):
        mine = [pair for pair in pairs if (pair.input, pair.axis) == (number, axis)]
        for pair, how, steps in _kept(run, inputs, outputs, mine):
            if how is None:
                could_tell = could_tell or outputs[pair.output].ndim == inputs[number].ndim
                continue
            could_tell = True
            evidence += _at_sites(run, inputs, pair, how, steps, entries)
    return Found(_of_maps(evidence, entries), could_tell)


def _pairs(inputs: Sequence[Array], outputs: Sequence[Array]) -> list[Pair]:
    return [
        Pair(i, axis, o, other)
        for i, x in enumerate(inputs)
        if x.dtype.kind in "fiu"
        for axis in range(1, x.ndim)
        for o, y in enumerate(outputs)
        for other in range(1, y.ndim)
        if x.shape[axis] == y.shape[other] > 1 and x.size and y.size
    ]


def _kept(
    run: Run, inputs: Sequence[Array], outputs: Sequence[Array], pairs: Sequence[Pair]
) -> list[tuple[Pair, str | None, list[int]]]:
    """Return each pair with what it keeps, None for nothing, and the positions from which the inputs were changed."""
    number, axis = pairs[0].input, pairs[0].axis
    length = inputs[number].shape[axis]
    steps = _steps(length)
    alive, moved_at_all = list(pairs), set()
    noise: list[float] | None = None
    for step in steps:
        result = run(_changed(inputs, number, axis, slice(step, None), step), ()).outputs
        still = []
        for pair in alive:
            moves = _moves(outputs[pair.output], result[pair.output], pair.output_axis, 0.0)
            if moves[:step].any():
                noise = noise or _noise(run, inputs, outputs)
                moves = _moves(outputs[pair.output], result[pair.output], pair.output_axis, noise[pair.output])
            if moves.any():
                moved_at_all.add(pair)
            if not moves[:step].any():
                still.append(pair)
        alive = still
        if not alive:
            break
    kept = [pair for pair in alive if pair in moved_at_all]
    dead = [(pair, None, steps) for pair in pairs if pair in moved_at_all and pair not in kept]
    return dead + [(pair, how, steps) for pair, how in _kinds(run, inputs, outputs, kept)]


def _kinds(
    run: Run, inputs: Sequence[Array], outputs: Sequence[Array], pairs: Sequence[Pair]
) -> list[tuple[Pair, str]]:
    """Tell causal pairs from frames: whether one changed position moves others behind it."""
    if not pairs:
        return []
    number, axis = pairs[0].input, pairs[0].axis
    length = inputs[number].shape[axis]
    result = run(_changed(inputs, number, axis, slice(0, 1), length), ()).outputs
    noise = _noise(run, inputs, outputs)
    found = []
    for pair in pairs:
        moves = _moves(outputs[pair.output], result[pair.output], pair.output_axis, noise[pair.output])
        found.append((pair, "causal" if moves[1:].any() else "frames"))
    return found


def _at_sites(
    run: Run, inputs: Sequence[Array], pair: Pair, how: str, steps: Sequence[int], entries: Sequence[ECAEntry]
) -> tuple[Evidence, ...]:
    """Return the sites at which a sample has positions that move and others that do not: a mean would mix them."""
    paths = [entry.path for entry in entries]
    before = run(inputs, paths).sites
    found: dict[str, tuple[int | None, int]] = {}
    for step in steps:
        after = run(_changed(inputs, pair.input, pair.axis, slice(step, None), step), paths).sites
        for entry in entries:
            if entry.path in found or entry.path not in before or entry.path not in after:
                continue
            place = _place(entry, before[entry.path], after[entry.path])
            if place is not False:
                found[entry.path] = (place, before[entry.path].ndim)
    what = "later positions" if how == "causal" else "other frames"
    moved = "earlier outputs" if how == "causal" else "a frame's outputs"
    source = f"in a run, {moved} did not move when {what} along axis {pair.axis} of the input changed"
    return grouped(((path, how, *found[path]) for path in paths if path in found), source)


def _place(entry: ECAEntry, before: Array, after: Array) -> int | bool | None:
    """Return the spatial axis that parts what moves from what does not; False if nothing is parted within a sample."""
    if before.shape != after.shape or before.ndim < 3:
        return False
    moves = np.any(_differ(before, after, _tolerance(before)), axis=entry.channel_axis, keepdims=True)
    flat = moves.reshape(moves.shape[0], -1)
    if not (flat.any(axis=1) & ~flat.all(axis=1)).any():
        return False
    channels = entry.channel_axis % before.ndim
    for axis in (a for a in range(1, before.ndim) if a != channels):
        along = np.any(moves, axis=tuple(a for a in range(1, before.ndim) if a != axis))
        if (along.any(axis=1) & ~along.all(axis=1)).any():
            return place_of(axis, entry.layout, before.ndim)
    return None


def _of_maps(evidence: Sequence[Evidence], entries: Sequence[ECAEntry]) -> tuple[Evidence, ...]:
    """Leave out sites whose every position is a frame: a network that works point by point has no frames to keep."""
    places: dict[str, set[int | None]] = {}
    for shown in evidence:
        for path in shown.sites if shown.how == "frames" else ():
            places.setdefault(path, set()).add(shown.place)
    kept = {}
    for shown in evidence:
        is_map = [path for path in shown.sites if shown.how == "causal" or len(places[path] - {None}) < shown.rank - 2]
        key = (shown.how, shown.place, shown.rank, tuple(is_map))  # the same from two inputs or outputs
        if is_map and key not in kept:
            kept[key] = Evidence(*key, shown.source)
    return tuple(kept.values())


def _steps(length: int) -> list[int]:
    """Return the positions from which on inputs are changed: the first that leaves one, the last, one between.

    The first is off the grid of every network that works on patches or strides.
    """
    between = int(np.random.default_rng(SEED).integers(1, length))
    return list(dict.fromkeys((1, length - 1, between)))


def _changed(inputs: Sequence[Array], number: int, axis: int, where: slice, seed: int) -> list[Array]:
    """Return the inputs with other numbers at some positions: of the same size, or of those that occur (indices)."""
    rng, x = np.random.default_rng((SEED, seed)), inputs[number].copy()
    index = (slice(None),) * axis + (where,)
    part = x[index]
    if x.dtype.kind == "f":
        size = float(np.std(x, dtype=np.float64))
        new = part + rng.normal(size=part.shape) * (size if np.isfinite(size) and size > 0 else 1.0)
    else:
        values = np.unique(x)
        new = values[(np.searchsorted(values, part) + 1 + rng.integers(max(len(values) - 1, 1))) % len(values)]
    x[index] = new.astype(x.dtype)
    return [*inputs[:number], x, *inputs[number + 1 :]]


def _noise(run: Run, inputs: Sequence[Array], outputs: Sequence[Array]) -> list[float]:
    """Return what two runs on the same inputs may differ by, and what rounding may."""
    again = run(inputs, ()).outputs
    noise = []
    for y, other in zip(outputs, again, strict=True):
        with np.errstate(invalid="ignore"):
            apart = np.abs(np.subtract(y, other, dtype=np.float64)) if y.size else np.zeros(1)
        noise.append(max(_tolerance(y), 4 * float(np.nan_to_num(apart, posinf=0).max())))
    return noise


def _tolerance(y: Array) -> float:
    finite = np.abs(y[np.isfinite(y)]) if y.dtype.kind == "f" else np.zeros(0)
    return ROUNDING * float(np.finfo(y.dtype).eps) * float(finite.max()) if finite.size else 0.0


def _moves(y: Array, other: Array, axis: int, noise: float) -> NDArray[np.bool_]:
    """Return for each position along an axis whether anything there moved."""
    if y.shape != other.shape:
        return np.ones(y.shape[axis], bool)
    others = tuple(a for a in range(y.ndim) if a != axis)
    return np.asarray(np.any(_differ(y, other, noise), axis=others), np.bool_)


def _differ(y: Array, other: Array, noise: float) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        apart = np.abs(np.subtract(y, other, dtype=np.float64))
        moved: NDArray[np.bool_] = np.greater(apart, noise)
    return moved | (np.isnan(apart) & (np.isnan(y) != np.isnan(other)))
