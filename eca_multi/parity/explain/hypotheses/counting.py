"""The divisor of a variance, n or n - 1, where the layer corrects a variance by a factor of its own."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from eca_multi.parity.mutants.mode import Call, Change

from .hypothesis import Hypothesis, Seen, numbers, on, with_argument


def _factor(call: Call) -> Any:
    """Leave out a factor (n - 1) / n, or its inverse."""
    for index, number in numbers(call):
        ratio = max(number, 1 / number) if number > 0 else 1.0
        count = ratio / (ratio - 1) if ratio > 1 else 0.0
        # A ratio that was rounded in float32, as JAX's are, moves the count by up to count^2 roundings.
        if count > 2 and abs(count - round(count)) <= min(count**2 * 2.0**-23, 0.1):
            return with_argument(call, index, "other", 1.0)
    return NotImplemented


def _steps(seen: Sequence[Seen]) -> Mapping[str, Change]:
    """Leave out a product with n - 1 and the division by n that follows, or those with n and n - 1."""
    pairs = {
        by: times
        for one, other in pairwise(seen)
        if (one.call.name, other.call.name) == ("mul", "div")
        for _, times in numbers(one.call)
        for index, by in numbers(other.call)
        if index == 1 and abs(times - by) == 1 and min(times, by) >= 1 and times.is_integer()
    }

    def divided(call: Call) -> Any:
        for index, by in numbers(call):
            if index == 1 and by in pairs:
                return with_argument(call, index, "other", pairs[by])
        return NotImplemented

    return {"div": divided}


_SAYS = "the variance is divided by the other one of n and n - 1"
COUNTING = (
    Hypothesis(_SAYS, on(("mul", "div"), _factor)),
    Hypothesis(_SAYS, {"div": None}, planned=_steps),
)
