"""Single elements of the tensors that use most of their budget: their errors, and how many use how much of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from eca_multi.parity.define.dtypes import DTYPES

from .reading import Row, finite, in_order, numbers, sequence
from .results import Result
from .wording import TIMES, count, plain, use

MOST = 2  # tensors of a dtype that are shown
BINS = 12  # of |error| / budget: exactly 0, up to 2**-9, 2**-8 ... 2**0, and more


@dataclass(frozen=True)
class Profile:
    """A tensor of which the report holds single elements.

    Attributes:
        points: (|reference|, |error|, budget) of some elements, all three finite.
        counts: The number of elements in each bin of |error| / budget, or nothing.
    """

    result: Result
    points: tuple[tuple[float, float, float], ...]
    counts: tuple[float, ...]

    @property
    def note(self) -> str:
        parts = [self.result.runner, self.result.case, self.result.tensor]
        measured = self.result.budget_use is not None or self.result.fails
        return " · ".join(parts + ([f"{use(self.result.budget_use)} {TIMES} budget"] if measured else []))

    @property
    def rows(self) -> list[list[str]]:
        return [[*map(plain, point), "✕ over" if point[1] > point[2] else "within"] for point in self.points]

    @property
    def label(self) -> str:
        over = sum(error > budget for _, error, budget in self.points)
        return (
            f"Absolute error against the absolute reference, {self.result.dtype}, {self.note}. "
            f"{over} of {count(len(self.points), 'element')} shown lie over the budget."
        )

    @property
    def histogram_label(self) -> str:
        total, over, exact = (int(number) for number in (sum(self.counts), self.counts[-1], self.counts[0]))
        return (
            f"Histogram of error over budget, {self.result.dtype}, {self.note}. "
            f"Of {count(total, 'element')} {over:,} lie over the budget and {exact:,} are exact."
        )


def read_profile(result: Result, row: Row) -> Profile:
    points = (_point(values) for values in sequence(row, "points"))
    counts = tuple(max(0.0, count or 0.0) for count in numbers(row, "histogram"))
    drawable = len(counts) == BINS and sum(counts) > 0
    return Profile(result, tuple(point for point in points if point), counts if drawable else ())


def shown(profiles: Sequence[Profile]) -> list[Profile]:
    """Return the worst profile of each dtype, then the second worst of each and so on."""
    dtypes = in_order((profile.result.dtype for profile in profiles), DTYPES)
    columns = [_worst([profile for profile in profiles if profile.result.dtype == dtype]) for dtype in dtypes]
    return [column[rank] for rank in range(MOST) for column in columns if rank < len(column)]


def _worst(profiles: Sequence[Profile]) -> list[Profile]:
    """The worst profiles; a second runner says more than a second tensor of the same one, and comes before it."""
    ordered = sorted(profiles, key=lambda profile: profile.note)
    ordered.sort(key=lambda profile: profile.result.severity, reverse=True)
    first = {profile.result.runner: profile for profile in reversed(ordered)}
    heads = [profile for profile in ordered if first[profile.result.runner] is profile]
    return [*heads, *(profile for profile in ordered if profile not in heads)][:MOST]


def _point(values: object) -> tuple[float, float, float] | None:
    if not isinstance(values, list | tuple) or len(values) != 3:
        return None
    reference, error, budget = map(finite, values)
    if reference is None or error is None or budget is None:
        return None
    return abs(reference), abs(error), budget
