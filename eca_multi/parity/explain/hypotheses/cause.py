"""A cause, and the line that names it. This module imports no framework."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A hypothesis that explains a failure. `share` is max |result - changed reference| / budget."""

    says: str
    share: float

    def __str__(self) -> str:
        return f"{self.says} ({self.share:.1g} of the budget)"


def say_causes(causes: Sequence[Cause]) -> str:
    """Return the causes in one line; "" for none.

    Example:
        >>> say_causes([Cause("kernel is transposed", 0.2)])
        'matches the reference if kernel is transposed (0.2 of the budget)'
    """
    return f"matches the reference if {', or if '.join(map(str, causes))}" if causes else ""
