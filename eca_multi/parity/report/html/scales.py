"""From numbers to pixels on a logarithmic axis, and the marks along it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .formats import power_of_ten
from .markup import Markup

Tick = tuple[float, Markup]


@dataclass(frozen=True)
class LogScale:
    """Maps [10**low, 10**high] onto [start, stop] pixels.

    Zero has no logarithm: where `slot` is not 0, it has a place of its own in the first `slot` pixels.
    """

    low: float
    high: float
    start: float
    stop: float
    slot: float = 0.0

    @property
    def first(self) -> float:
        """The pixel of 10**low."""
        return self.start + math.copysign(self.slot, self.stop - self.start)

    @property
    def zero(self) -> float:
        """The pixel of zero."""
        return self.start + (self.first - self.start) / 3

    def __call__(self, value: float) -> float:
        if value <= 0:
            return self.zero
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.first + min(max(share, 0.0), 1.0) * (self.stop - self.first)

    def decades(self, most: int = 6) -> list[Tick]:
        """Whole powers of ten, no more than about `most`, after a 0 where zero has a slot."""
        powers = range(math.ceil(self.low), math.floor(self.high) + 1)
        stride = math.ceil(len(powers) / most) or 1
        marks = [(self(10.0**power), power_of_ten(power)) for power in powers if power % stride == 0]
        return [*self._zero(), *marks]

    def round_numbers(self, apart: float) -> list[Tick]:
        """1, 2, 5, 10, 20 ... at least `apart` pixels from each other: for axes of a few decades."""
        marks: list[Tick] = self._zero()
        for power in range(math.floor(self.low), math.floor(self.high) + 1):
            for digit in (1, 2, 5):
                inside = self.low <= math.log10(digit) + power <= self.high + 1e-9
                place = self(digit * 10.0**power)
                if inside and (not marks or abs(place - marks[-1][0]) >= apart):
                    marks.append((place, Markup(f"{digit * 10.0**power:g}")))
        return marks

    def _zero(self) -> list[Tick]:
        return [(self.zero, Markup("0"))] if self.slot else []


def decades_around(values: Iterable[float], start: float, stop: float, *, slot: float = 0.0) -> LogScale:
    """A scale of whole decades that holds the values; `slot` is kept only where one of them is zero."""
    found = list(values)
    positive = [value for value in found if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return LogScale(low, max(high, low + 1), start, stop, slot if any(value <= 0 for value in found) else 0.0)


def tight_around(values: Iterable[float], start: float, stop: float, *, slot: float = 0.0) -> LogScale:
    """A scale from the smallest to the largest value."""
    found = list(values)
    positive = [value for value in found if value > 0] or [1.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    high = high if high > low else low + 1
    return LogScale(low, high, start, stop, slot if any(value <= 0 for value in found) else 0.0)
