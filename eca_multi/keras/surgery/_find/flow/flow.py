"""Where the positions along one axis of an input go: which axis of a tensor they are at, and how far it looks ahead."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

MOST_SIGNS = 4  # of what a message names


@dataclass(frozen=True)
class Flow:
    """How a tensor depends on the positions along one axis of one input.

    Position t of the tensor's `axis` sees the input's positions up to t * step + ahead.

    Args:
        axis: Of the tensor; 0 where the positions are in the batch (a frame's own network), None where every position
            may see every other.
        ahead: Negative behind padding on the left.
        step: Positions of the input for each of the tensor: a stride makes it larger, upsampling smaller.
        is_framewise: Whether position t sees the input's position t alone.
        signs: What in the network says that the order of positions is meant: a causal convolution, TimeDistributed, ...
    """

    axis: int | None
    ahead: Fraction = Fraction(0)
    step: Fraction = Fraction(1)
    is_framewise: bool = True
    signs: tuple[str, ...] = ()

    @property
    def is_causal(self) -> bool:
        """Whether no position sees what comes after it; one position of a coarser axis stands for all of its step."""
        return self.axis is not None and self.ahead <= max(self.step - 1, Fraction(0))

    @property
    def keeps_frames(self) -> bool:
        return self.axis is not None and self.is_framewise and self.ahead == 0 and self.step == 1

    def at(self, axis: int | None) -> "Flow":
        """Return the flow of the same positions at another axis."""
        return replace(self, axis=axis) if axis is not None else MIXED

    def shifted(self, positions: int, sign: str = "") -> "Flow":
        """Return the flow where position t is what position t + positions was."""
        if not positions and not sign:
            return self
        ahead = self.ahead + positions * self.step
        return replace(self, ahead=ahead, is_framewise=self.is_framewise and not positions).said(sign)

    def windowed(self, reach: int, stride: int, *, is_single: bool, sign: str = "") -> "Flow":
        """Return the flow where position t sees up to t * stride + reach, and that position alone if `is_single`."""
        return replace(
            self,
            ahead=self.ahead + reach * self.step,
            step=self.step * stride,
            is_framewise=self.is_framewise and is_single,
        ).said(sign)

    def said(self, sign: str) -> "Flow":
        return replace(self, signs=_once((*self.signs, sign))) if sign else self


MIXED = Flow(None)


def joined(flows: Iterable[Flow | None]) -> Flow | None:
    """Return the flow of a tensor that is made of several, position by position; None does not depend on the input."""
    found = [flow for flow in flows if flow is not None]
    if not found:
        return None
    first = found[0]
    if any(flow.axis is None or (flow.axis, flow.step) != (first.axis, first.step) for flow in found):
        return MIXED
    return Flow(
        first.axis,
        max(flow.ahead for flow in found),
        first.step,
        all(flow.is_framewise for flow in found) and len({flow.ahead for flow in found}) == 1,
        _once([sign for flow in found for sign in flow.signs]),
    )


def _once(signs: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(signs))[:MOST_SIGNS]
