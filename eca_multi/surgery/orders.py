"""Which order the outputs keep along the axes of the inputs: told by runs with other numbers at later positions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .moves import Array, along, apart, changed, steps, tolerance

CLEAR = 1e-3  # of the most that an output moves: more than this at an earlier position is no noise
FAR = 100  # times the noise: the least that later positions must move, so that earlier ones are known to stand still


class Outcome(NamedTuple):
    """What one run returns: the network's outputs, and what stood at each site that was asked for, by path.

    A site that was called more than once may have a list of arrays, one for each call.
    """

    outputs: Sequence[Array]
    sites: Mapping[str, Array | Sequence[Array]]


Run = Callable[[Sequence[Array], Sequence[str]], Outcome]  # of the inputs, and of the paths of the sites


class Pair(NamedTuple):
    """An axis of an input, and one of an output that is as long."""

    input: int
    axis: int
    output: int
    output_axis: int


@dataclass(frozen=True)
class Orders:
    """The orders that a network keeps; each costly fact is found once.

    Args:
        run, inputs, outputs, eps: As for `causal_probe.probe`.
    """

    run: Run
    inputs: Sequence[Array]
    outputs: Sequence[Array]
    eps: float = 0.0

    @cached_property
    def told(self) -> list[tuple[Pair, str | None]]:
        """Each pair with what it keeps: "causal", "frames", "" for nothing, None where a run cannot tell."""
        axes = dict.fromkeys((pair.input, pair.axis) for pair in self._pairs)
        return [one for axis in axes for one in self._told([p for p in self._pairs if (p.input, p.axis) == axis])]

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
        """Yield the pairs of one axis of an input with what each keeps."""
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
                verdict = self.stands(moves, slice(None, step), pair)
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
            yield pair, "frames" if moves.any() and self.stands(moves, slice(1, None), pair) else "causal"

    def is_finer(self, pair: Pair) -> bool:
        """Whether the order goes on within a position, as from pixel to pixel of a row: then no axis holds it."""
        x, last = self.inputs[pair.input], self.inputs[pair.input].shape[pair.axis] - 1
        of_both = [other for other, how in self.told if how == "" and other[::2] == pair[::2]]
        is_last = np.arange(last + 1).reshape([-1 if axis == pair.axis else 1 for axis in range(x.ndim)]) == last
        row = self.outputs[pair.output].take([last], pair.output_axis)
        for other in (one for one in of_both if one.axis != pair.axis and one.output_axis != pair.output_axis):
            stands = set()
            for step in steps(x.shape[other.axis]):
                new = changed(self.inputs, pair.input, other.axis, slice(step, None), step)
                new[pair.input] = np.where(is_last, new[pair.input], x)
                now = self.run(new, ()).outputs[pair.output].take([last], pair.output_axis)
                moves = along(row, now, other.output_axis)
                stands.add(self.stands(moves, slice(None, step), pair) if moves.any() else "still")
                if stands - {True, "still"}:
                    break
            if True in stands and stands <= {True, "still"}:
                return True
        return False

    def stands(self, moves: Array, where: slice, pair: Pair) -> bool | None:
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
