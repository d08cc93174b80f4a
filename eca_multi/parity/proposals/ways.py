"""The ways that lead from one shape to another: by moving axes, and by merging or splitting them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from math import prod

Shape = tuple[int, ...]
Groups = tuple[tuple[str, ...], ...]
_MOST_AXES = 6
_NAMES = {2: "oi", 3: "oik", 4: "oihw", 5: "oidhw"}  # of the axes of a torch kernel
_ELSEWHERE = {2: "io", 3: "kio", 4: "hwio", 5: "dhwio"}


@dataclass(frozen=True)
class Way:
    """The axes on both sides of an arrow; each axis of an array is a group of names."""

    left: Groups
    right: Groups

    @property
    def text(self) -> str:
        """The way as a map writes it; "" where nothing changes."""
        return "" if self.left == self.right else f"{side(self.left)} -> {side(self.right)}"

    def of_part(self, stack: str, axis: int) -> "Way":
        """Return the way to one part of a weight, in which the parts lie one after the other along an axis."""
        left = [(stack, *group) if number == axis else group for number, group in enumerate(self.left)]
        return Way(tuple(left), self.right)

    @property
    def of_transposed(self) -> "Way":
        """Return the same way with the names that the axes of a transposed convolution have."""
        names = {"o": "i", "i": "o"}
        left, right = (tuple(tuple(names.get(a, a) for a in g) for g in side) for side in (self.left, self.right))
        return Way(left, right)

    def from_parts(self, stack: str, axis: int) -> "Way":
        """Return the way from several weights to one, in which they lie one after the other along an axis."""
        right = [(stack, *group) if number == axis else group for number, group in enumerate(self.right)]
        return Way(self.left, tuple(right))


def side(groups: Groups) -> str:
    return " ".join("1" if not g else g[0] if len(g) == 1 else f"({' '.join(g)})" for g in groups)


@cache
def ways(source: Shape, target: Shape, turned: str = "") -> tuple[Way, ...]:
    """Return the ways from a shape to another, the usual one first.

    Args:
        source, target: The shapes.
        turned: "from" where torch's order (out, in, space) becomes (space, in, out), "to" for the other way round, ""
            where axes usually stay.
    """
    names = (_ELSEWHERE if turned == "to" else _NAMES).get(len(source), "abcdefgh")
    axes = [axis for axis, size in enumerate(source) if size != 1]
    wanted = [size for size in target if size != 1]
    if prod(source) != prod(target) or max(len(axes), len(wanted)) > _MOST_AXES:
        return ()
    found: dict[Way, int] = {}
    for order in permutations(axes):
        if _keeps_space(order, len(source), turned):
            for runs in _runs([source[axis] for axis in order], wanted):
                way = _way(source, target, order, runs, names)
                found.setdefault(way, _strangeness(order, runs[0], len(source), turned))
    moved = {way: strange for way, strange in found.items() if all(len(g) < 2 for g in (*way.left, *way.right))}
    found = moved or found  # what can be moved is not merged: 64 is 8 times 8 by chance
    return tuple(sorted(found, key=found.__getitem__))


def _keeps_space(order: tuple[int, ...], count: int, turned: str) -> bool:
    """Whether the axes of space keep their order, which are the first or last ones of a kernel with four or more."""
    if count < 4:
        return True
    before, behind = ([a for a in order if a < count - 2], [a for a in order if a >= 2])
    return before == sorted(before) if turned == "to" else behind == sorted(behind)


def _runs(moved: list[int], wanted: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield how many axes of either side belong together: the shortest runs with equal products."""
    if not moved and not wanted:
        yield [], []
    for mine in range(1, len(moved) + 1):
        for theirs in range(1, len(wanted) + 1):
            if min(mine, theirs) == 1 and prod(moved[:mine]) == prod(wanted[:theirs]):
                for rest in _runs(moved[mine:], wanted[theirs:]):
                    yield [mine, *rest[0]], [theirs, *rest[1]]
                return  # a longer run would merge what need not be merged


def _way(source: Shape, target: Shape, order: tuple[int, ...], runs: tuple[list[int], list[int]], names: str) -> Way:
    left: list[tuple[str, ...]] = [()] * len(source)
    right: list[tuple[str, ...]] = []
    position = 0
    for mine, theirs in zip(*runs, strict=True):
        axes = order[position : position + mine]
        if mine > 1 or theirs == 1:
            for axis in axes:
                left[axis] = (names[axis],)
            right.append(tuple(names[axis] for axis in axes))
        else:
            left[axes[0]] = tuple(f"{names[axes[0]]}{number}" for number in range(1, theirs + 1))
            right += [(part,) for part in left[axes[0]]]
        position += mine
    rights = iter(right)
    return Way(tuple(left), tuple(() if size == 1 else next(rights) for size in target))


def _strangeness(order: tuple[int, ...], runs: list[int], count: int, turned: str) -> int:
    """Return 0 for the usual order of what is merged or moved."""
    starts, position, mixed = [], 0, 0
    for length in runs:
        run = order[position : position + length]
        mixed += list(run) != sorted(run)
        starts.append(run[0])
        position += length
    usual = list(range(count))
    if turned == "from":
        usual = [*range(2, count), 1, 0] if len(runs) == len(order) else usual[::-1]
    if turned == "to":
        usual = [count - 1, count - 2, *range(count - 2)] if len(runs) == len(order) else usual[::-1]
    return 2 * mixed + (sorted(starts, key=usual.index) != starts)
