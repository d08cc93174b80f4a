"""A logarithmic axis: from numbers to places, and the ticks along it."""

import math
from collections.abc import Iterable

from eca_multi.parity.report.view.wording import power

ZERO = 0.8  # decades between zero and the smallest number


class LogAxis:
    """Maps numbers to their decimal logarithms, and zero to a place of its own below the smallest of them."""

    def __init__(self, values: Iterable[float], *, tight: bool = False) -> None:
        numbers = list(values)
        logs = [math.log10(value) for value in numbers if value > 0] or [0.0]
        low, high = (min(logs), max(logs)) if tight else (math.floor(min(logs)), math.ceil(max(logs)))
        self.low, self.high = low, max(high, low + 1)
        self.zero = low - ZERO * max(1.0, (self.high - low) / 8)
        self.has_zero = any(value <= 0 for value in numbers)

    @property
    def limits(self) -> tuple[float, float]:
        return (self.zero - (self.low - self.zero) / 2 if self.has_zero else self.low), self.high

    def __call__(self, value: float) -> float:
        return math.log10(value) if value > 0 else self.zero

    def decades(self, most: int = 6) -> dict[float, str]:
        """Return the places and labels of whole powers of ten, about `most`, and of zero where there is one."""
        powers = range(math.ceil(self.low), math.floor(self.high) + 1)
        stride = math.ceil(len(powers) / most) or 1
        return self._zero() | {float(p): power(10, p) for p in powers if p % stride == 0}

    def round_numbers(self, most: int = 9) -> dict[float, str]:
        """Return the places and labels of 1, 2, 5, 10, 20 ..., as far apart as `most` of them would be."""
        places = self._zero()
        apart = (self.high - self.low) / most
        for exponent in range(math.floor(self.low), math.floor(self.high) + 1):
            for digit in (1, 2, 5):
                place = exponent + math.log10(digit)
                if self.low <= place <= self.high + 1e-9 and place - max(places, default=-math.inf) >= apart:
                    places[place] = f"{digit}e{exponent}" if abs(exponent) > 4 else f"{digit * 10.0**exponent:g}"
        return places

    def _zero(self) -> dict[float, str]:
        return {self.zero: "0"} if self.has_zero else {}
