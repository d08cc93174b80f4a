"""How far a value looks along one axis of a network's input: which positions of the axis it was made of.

Position t of a value was made of the input's positions t + low to t + high. A causal convolution keeps `high` at 0, a
pad in front lowers both, a window behind it raises `high` again; so a left pad with a convolution without padding, or
a pad on both sides whose end is cut off, come out causal by arithmetic and not by the name of a layer.
"""

from dataclasses import dataclass, replace
from math import inf, prod

EVERYWHERE = -1  # of `axis`: the positions are mixed, or nothing is known of them
STEPS = -2  # and below: the value belongs to one step of a scan over the axis, by the depth of the scan


@dataclass(frozen=True)
class Reach:
    """Of which positions each position of a value was made.

    Args:
        axis: The value's axis that holds the positions; below 0 EVERYWHERE or a step of a scan.
        low, high: The first and the last of the input's positions behind a position, counted from the position.
        size: Number of positions.
        outer, inner: What is merged with the positions in that axis, before and behind them: frames that were folded
            into the batch have outer = N.

    Example:
        >>> from eca_multi.flax._jaxpr.reach import Reach
        >>> Reach(1, -4, 0, 16).is_causal, Reach(1, -1, 1, 16).is_causal
        (True, False)
    """

    axis: int
    low: float
    high: float
    size: int = 0
    outer: int = 1
    inner: int = 1

    @property
    def is_alone(self) -> bool:
        """Whether an axis holds the positions and nothing else."""
        return self.axis >= 0 and self.outer == self.inner == 1

    @property
    def is_causal(self) -> bool:
        return self.is_alone and self.high <= 0

    @property
    def is_each(self) -> bool:
        """Whether each position was made of the input's same position alone."""
        return self.is_alone and self.low == self.high == 0

    def moved(self, axis: int) -> "Reach":
        return replace(self, axis=axis)

    def shifted(self, low: float, high: float, size: int) -> "Reach":
        return replace(self, low=self.low + low, high=self.high + high, size=size)


EVERY = Reach(EVERYWHERE, -inf, inf)
State = Reach | None  # None: the value does not depend on the input


def joined(*states: State) -> State:
    """Return the reach of a value that was made of values in the same places.

    Example:
        >>> from eca_multi.flax._jaxpr.reach import Reach, joined
        >>> joined(Reach(1, -2, 0, 8), None, Reach(1, 0, 1, 8)).high
        1
    """
    known = [state for state in states if state is not None]
    if not known:
        return None
    if len({(state.axis, state.size, state.outer, state.inner) for state in known}) > 1:
        return EVERY
    return replace(known[0], low=min(state.low for state in known), high=max(state.high for state in known))


def widened(old: State, new: State) -> State:
    """Return the reach of what a loop carries, so that a few turns settle it: what grows once is taken to grow on."""
    both = joined(old, new)
    if old is None or both is None:
        return both
    return replace(
        both, low=both.low if both.low == old.low else -inf, high=both.high if both.high == old.high else inf
    )


def reshaped(state: Reach, old: tuple[int, ...], new: tuple[int, ...]) -> Reach:
    """Return the reach after a reshape; EVERY where the reshape splits the positions over several axes."""
    before = prod(old[: state.axis]) * state.outer
    for axis, length in enumerate(new):
        ahead = prod(new[:axis])
        outer = before // ahead if ahead else 0
        if ahead and before % ahead == 0 and outer and length % (outer * state.size) == 0:
            inner = length // (outer * state.size)
            if inner and inner * prod(new[axis + 1 :]) == state.inner * prod(old[state.axis + 1 :]):
                return replace(state, axis=axis, outer=outer, inner=inner)
    return EVERY
