"""The probe: change later positions of the inputs, and see whether earlier outputs move; then look at the sites.

It needs no framework: `run` takes the inputs as arrays and returns arrays. A network that is not causal costs one run
for each axis that an output shares with an input; without such an axis nothing runs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .axes import place_of
from .causality import Evidence, Found, grouped
from .entry import ECAEntry
from .moves import Array as Array
from .moves import along, apart, changed, noise_like, steps, tolerance

CLEAR = 1e-3  # of the most that an output moves: more than this at an earlier position is no noise
FAR = 100  # times the noise: the least that later positions must move, so that earlier ones are known to stand still


class Outcome(NamedTuple):
    """What one run returns: the network's outputs, and what stood at each site that was asked for, by path.

    A site that was called more than once may have a list of arrays, one for each call.
    """

    outputs: Sequence[Array]
    sites: Mapping[str, Array | Sequence[Array]]


Run = Callable[[Sequence[Array], Sequence[str]], Outcome]  # of the inputs, and of the paths of the sites
Nudge = Callable[[str, Array], Sequence[Array]]  # of a path, and of what is added there


@dataclass(frozen=True)
class Pair:
    """An axis of an input, and one of an output that is as long."""

    input: int
    axis: int
    output: int
    output_axis: int


class Site(NamedTuple):
    """A site whose ECA would mix positions: the axis that holds them, the rank, and where they stood still."""

    place: int | None
    rank: int
    still: Array
    before: Array
    step: int


def probe(
    run: Run,
    inputs: Sequence[Array],
    outputs: Sequence[Array],
    entries: Sequence[ECAEntry],
    *,
    eps: float = 0.0,
    nudge: Nudge | None = None,
) -> Found:
    """Look for axes along which no output sees a later input, and for sites where a mean would change that.

    Args:
        run: Runs the network in inference mode, and leaves it and the random state as they were.
        inputs: The tensors that the network is called with. Those of numbers are changed; axis 0 is the batch.
        outputs: What it returns for them.
        entries: The sites to look at; their layouts tell which axes of their outputs are spatial.
        eps: Of the coarsest type that the network computes in, where that is coarser than its outputs' type.
        nudge: Runs the network on the inputs with something added to what a site puts out. Then a site whose
            positions reach only other outputs than the causal one, or none, counts as none.

    Returns:
        The evidence, one for each axis of the sites and kind; and whether a run could tell.

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
    return _Probe(run, inputs, outputs, entries, eps, nudge).found()


@dataclass(frozen=True)
class _Probe:
    run: Run
    inputs: Sequence[Array]
    outputs: Sequence[Array]
    entries: Sequence[ECAEntry]
    eps: float
    nudge: Nudge | None

    def found(self) -> Found:
        told: list[tuple[Pair, str | None]] = []
        for number, axis in dict.fromkeys((pair.input, pair.axis) for pair in self._pairs):
            told += self._told([pair for pair in self._pairs if (pair.input, pair.axis) == (number, axis)])
        kept = [(pair, how, sites) for pair, how in told if how and (sites := self._sites(pair))]
        causal = {pair.output for pair, _, _ in kept}
        if self.nudge and len(causal) < len(self.outputs):  # else each site that matters reaches a causal output
            kept = [(pair, how, self._reaching(self.nudge, pair, sites)) for pair, how, sites in kept]
        evidence = [shown for pair, how, sites in kept for shown in self._evidence(pair, how, sites)]
        same = [how for pair, how in told if self.outputs[pair.output].ndim == self.inputs[pair.input].ndim]
        return Found(_of_maps(evidence), bool(kept) or (bool(same) and None not in same))

    @cached_property
    def _pairs(self) -> list[Pair]:
        return [
            Pair(i, axis, o, other)
            for i, x in enumerate(self.inputs)
            if x.dtype.kind in "fiu"
            for axis in range(1, x.ndim)
            for o, y in enumerate(self.outputs)
            if y.dtype.kind == "f"  # an index or a flag may stand still where all that it was chosen by moved
            for other in range(1, y.ndim)
            if x.shape[axis] == y.shape[other] > 1 and x.size and y.size
        ]

    def _told(self, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, str | None]]:
        """Yield pairs of one axis of an input with what each keeps: "" for nothing, None where a run cannot tell."""
        number, axis = pairs[0].input, pairs[0].axis
        alive, unknown, moved = list(pairs), set(), set()
        for step in steps(self.inputs[number].shape[axis]):
            result = self.run(changed(self.inputs, number, axis, slice(step, None), step), ()).outputs
            still = []
            for pair in alive:
                moves = along(self.outputs[pair.output], result[pair.output], pair.output_axis)
                if not moves.any():  # as at the last position where outputs are one behind
                    still.append(pair)
                    continue
                moved.add(pair)
                verdict = self._stands(moves, slice(None, step), pair)
                still += [pair] if verdict is not False else []
                unknown |= {pair} if verdict is None else set()
            alive = still
            if not alive:
                break
        yield from ((pair, "") for pair in pairs if pair not in alive)
        yield from ((pair, None) for pair in alive if pair in unknown or pair not in moved)
        kept = [pair for pair in alive if pair in moved and pair not in unknown]
        if not kept:
            return
        result = self.run(changed(self.inputs, number, axis, slice(0, 1), 0), ()).outputs
        for pair in kept:
            moves = along(self.outputs[pair.output], result[pair.output], pair.output_axis)
            yield pair, "frames" if moves.any() and self._stands(moves, slice(1, None), pair) else "causal"

    def _stands(self, moves: Array, where: slice, pair: Pair) -> bool | None:
        """Whether nothing moved at some positions while others moved; None if a run cannot tell."""
        here, most = float(moves[where].max()), float(moves.max())
        if here == 0:
            return True
        rounding = tolerance(self.outputs[pair.output], self.eps)
        if here > max(rounding, CLEAR * min(most, 1e300)):
            return False
        noise = max(rounding, self._noise[pair.output])
        if here > noise:
            return False
        return True if most > FAR * noise else None

    @cached_property
    def _noise(self) -> list[float]:
        """What two runs on the same inputs differ by, with room."""
        again = self.run(self.inputs, ()).outputs
        return [4 * float(apart(y, other).max(initial=0.0)) for y, other in zip(self.outputs, again, strict=True)]

    @cached_property
    def _before(self) -> Mapping[str, Array | Sequence[Array]]:
        return self.run(self.inputs, [entry.path for entry in self.entries]).sites

    def _sites(self, pair: Pair) -> dict[str, Site]:
        """Return the sites at which a sample has positions that move and others that do not: a mean would mix them."""
        found: dict[str, Site] = {}
        for step in steps(self.inputs[pair.input].shape[pair.axis]):
            left = [entry for entry in self.entries if entry.path not in found]
            if not left:
                break
            new = changed(self.inputs, pair.input, pair.axis, slice(step, None), step)
            after = self.run(new, [entry.path for entry in left]).sites
            for entry in left:
                calls = zip(_calls(self._before.get(entry.path, ())), _calls(after.get(entry.path, ())), strict=False)
                site = next((site for old, now in calls if (site := self._parted(entry, old, now, step))), None)
                if site is not None:
                    found[entry.path] = site
        return found

    def _evidence(self, pair: Pair, how: str, sites: Mapping[str, Site]) -> tuple[Evidence, ...]:
        what = "later positions" if how == "causal" else "other frames"
        moved = "earlier outputs" if how == "causal" else "a frame's outputs"
        source = f"in a run, {moved} did not move when {what} along axis {pair.axis} of the input changed"
        paths = [entry.path for entry in self.entries if entry.path in sites]
        return grouped(((path, how, sites[path].place, sites[path].rank) for path in paths), source)

    def _parted(self, entry: ECAEntry, before: Array, after: Array, step: int) -> Site | None:
        """Return the spatial axis that parts what moves from what does not; None if nothing is parted in a sample."""
        if before.shape != after.shape or before.ndim < 3 or not before.size:
            return None
        distance = np.max(apart(before, after), axis=entry.channel_axis, keepdims=True)
        noise = tolerance(before, self.eps)
        for least in (0.0, noise) if float(distance.max()) > FAR * noise else (0.0,):
            moves = distance > least
            flat = moves.reshape(moves.shape[0], -1)
            if (flat.any(axis=1) & ~flat.all(axis=1)).any():
                return Site(_place(entry, moves), before.ndim, ~moves, before, step)
        return None

    def _reaching(self, nudge: Nudge, pair: Pair, sites: Mapping[str, Site]) -> dict[str, Site]:
        """Return the sites of which what stood still reaches what stood still in the causal output."""
        reaching = {}
        for path, site in sites.items():
            added = np.where(site.still, noise_like(site.before), 0).astype(site.before.dtype)
            moves = along(self.outputs[pair.output], nudge(path, added)[pair.output], pair.output_axis)
            if moves[: site.step].any():
                reaching[path] = site
        return reaching


def _place(entry: ECAEntry, moves: Array) -> int | None:
    """Return the spatial axis whose last positions moved; None if they lie otherwise: folded, or back to front."""
    channels = entry.channel_axis % moves.ndim
    for axis in (axis for axis in range(1, moves.ndim) if axis != channels):
        line = np.any(moves, axis=tuple(other for other in range(1, moves.ndim) if other != axis))
        if (line.any(axis=1) & ~line.all(axis=1)).any():
            is_end = np.diff(line.any(axis=0).astype(int)).min() >= 0
            return place_of(axis, entry.layout, moves.ndim) if is_end else None
    return None


def _calls(value: Array | Sequence[Array]) -> Sequence[Array]:
    return [value] if isinstance(value, np.ndarray) else value


def _of_maps(evidence: Sequence[Evidence]) -> tuple[Evidence, ...]:
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
