"""The probe: change later positions of the inputs, and see whether earlier outputs move; then look at the sites.

It needs no framework: `run` takes the inputs as arrays and returns arrays. A network that is not causal costs one run
for each axis that an output shares with an input; without such an axis nothing runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .axes import place_of
from .causality import Evidence, Found, grouped
from .entry import ECAEntry
from .moves import Array as Array
from .moves import along, apart, changed, noise_like, steps, tolerance
from .orders import FAR, Orders, Pair
from .orders import Outcome as Outcome
from .orders import Run as Run

Nudge = Callable[[str, Array], Sequence[Array]]  # of a path, and of what is added there


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
        orders = Orders(self.run, self.inputs, self.outputs, self.eps)
        kept = [(pair, how, sites) for pair, how in orders.told if how and (sites := self._sites(pair))]
        causal = {pair.output for pair, _, _ in kept}
        if self.nudge and len(causal) < len(self.outputs):  # else each site that matters reaches a causal output
            kept = [(pair, how, self._reaching(self.nudge, pair, sites)) for pair, how, sites in kept]
        evidence: list[Evidence] = []
        for pair, how, sites in kept:
            if how == "causal" and orders.is_finer(pair):
                sites = {path: site._replace(place=None) for path, site in sites.items()}
            evidence += self._evidence(pair, how, sites)
        same = [how for pair, how in orders.told if self.outputs[pair.output].ndim == self.inputs[pair.input].ndim]
        return Found(_of_maps(evidence), bool(kept) or (bool(same) and None not in same))

    @cached_property
    def _before(self) -> Mapping[str, Array | Sequence[Array]]:
        return self.run(self.inputs, [entry.path for entry in self.entries]).sites

    def _sites(self, pair: Pair) -> dict[str, Site]:
        """Return the sites at which a sample has positions that move and others that do not: a mean would mix them."""
        length = self.inputs[pair.input].shape[pair.axis]
        paths = [entry.path for entry in self.entries]
        all_new = self._from(pair, 0, paths)
        found: dict[str, Site] = {}
        for step in steps(length):
            left = [entry for entry in self.entries if entry.path not in found]
            after = self._from(pair, step, [entry.path for entry in left]) if left else {}
            for entry in left:
                calls = (_calls(sites.get(entry.path, ())) for sites in (self._before, after, all_new))
                parted = (self._parted(entry, old, new, all_, step) for old, new, all_ in zip(*calls, strict=False))
                site = next((site for site in parted if site), None)
                if site:
                    found[entry.path] = site
        return found

    def _from(self, pair: Pair, step: int, paths: Sequence[str]) -> Mapping[str, Array | Sequence[Array]]:
        """Return what stands at sites where the input has other numbers from a position on."""
        return self.run(changed(self.inputs, pair.input, pair.axis, slice(step, None), step), paths).sites

    def _evidence(self, pair: Pair, how: str, sites: Mapping[str, Site]) -> tuple[Evidence, ...]:
        what = "later positions" if how == "causal" else "other frames"
        moved = "earlier outputs" if how == "causal" else "a frame's outputs"
        source = f"in a run, {moved} did not move when {what} along axis {pair.axis} of the input changed"
        paths = [entry.path for entry in self.entries if entry.path in sites]
        return grouped(((path, how, sites[path].place, sites[path].rank) for path in paths), source)

    def _parted(self, entry: ECAEntry, before: Array, after: Array, all_new: Array, step: int) -> Site | None:
        """Return the spatial axis that parts what moves from what does not; None if nothing is parted in a sample.

        What never moves, a padding or a unit that is off everywhere, counts for neither.
        """
        if not (before.shape == after.shape == all_new.shape) or before.ndim < 3 or not before.size:
            return None
        distance = apart(before, after).max(axis=entry.channel_axis, keepdims=True)
        alive = apart(before, all_new).max(axis=entry.channel_axis, keepdims=True) > 0
        noise = tolerance(before, self.eps)
        for least in (0.0, noise) if float(distance.max()) > FAR * noise else (0.0,):
            moves = distance > least
            still = alive & ~moves
            if any(one.any() and other.any() for one, other in zip(moves, still, strict=True)):
                return Site(_place(entry, moves, alive | moves), before.ndim, still, before, step)
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


def _place(entry: ECAEntry, moves: Array, alive: Array) -> int | None:
    """Return the spatial axis whose last positions moved; None if they lie otherwise: folded, or back to front."""
    channels = entry.channel_axis % moves.ndim
    for axis in (axis for axis in range(1, moves.ndim) if axis != channels):
        others = tuple(other for other in range(1, moves.ndim) if other != axis)
        line, can = _any(moves, others), _any(alive, others)
        if np.any(_any(line, (1,)) & _any(can & ~line, (1,))):
            in_all = _any(line, (0,))[_any(can, (0,))]
            return place_of(axis, entry.layout, moves.ndim) if np.all(in_all[:-1] <= in_all[1:]) else None
    return None


def _any(values: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.any(values, axis=axes))


def _calls(value: Array | Sequence[Array]) -> Sequence[Array]:
    return [value] if isinstance(value, np.ndarray) else value


def _of_maps(evidence: Sequence[Evidence]) -> tuple[Evidence, ...]:
    """Leave out sites of a network that works point by point, and of one whose images look back along both axes.

    The first has no frames to keep. The second has an even kernel, which pads in front alone, and means no order.
    """
    frames: dict[str, set[int | None]] = {}
    both: dict[str, set[int | None]] = {}
    for shown in evidence:
        for path in shown.sites:
            both.setdefault(path, set()).add(shown.place)
            if shown.how == "frames":
                frames.setdefault(path, set()).add(shown.place)
    kept = {}
    for shown in evidence:
        whole = shown.rank - 2
        of_points = {path for path, places in frames.items() if len(places - {None}) == whole}
        of_images = {path for path, places in both.items() if shown.rank == 4 and len(places - {None}) == whole}
        sites = [p for p in shown.sites if p not in of_images and (shown.how == "causal" or p not in of_points)]
        key = (shown.how, shown.place, shown.rank, tuple(sites))  # the same from two inputs or outputs
        if sites and key not in kept:
            kept[key] = Evidence(*key, shown.source)
    return tuple(kept.values())
