"""Which tensors are shown element by element: in each dtype those that use most of their budget."""

from collections.abc import Sequence
from dataclasses import dataclass

from .formats import TIMES, use
from .read import DTYPES, Row, finite, in_order, mapping, number, numbers, rows, sequence, text
from .verdicts import fails, severity

MOST = 2  # tensors of a dtype that are shown
BINS = 12  # of err / budget: exactly 0, up to 2**-9, 2**-8 ... 2**0, and more


@dataclass(frozen=True)
class Profile:
    """A tensor of which the report holds single elements.

    `points` are (|reference|, |error|, budget), finite ones alone; `histogram` counts elements by err / budget.
    """

    result: Row
    points: Sequence[tuple[float, float, float]]
    histogram: Sequence[float]

    @property
    def title(self) -> str:
        return text(self.result, "dtype")

    @property
    def note(self) -> str:
        parts = [text(self.result, key) for key in ("runner", "case", "tensor")]
        measured = number(self.result, "budget_use")
        amount = [] if measured is None and not fails(self.result) else [f"{use(measured)} {TIMES} budget"]
        return " · ".join(parts + amount)


def profiles(report: Row) -> list[Profile]:
    """All tensors with a profile."""
    return [_profile(result) for result in rows(report, "results") if mapping(result, "profile")]


def chosen(found: Sequence[Profile]) -> tuple[list[Profile], int]:
    """The worst of each dtype, then the second worst of each and so on, and how many dtypes there are.

    A second runner says more than a second tensor of the same one, so the runners of a dtype differ where they can.
    """
    dtypes = in_order((profile.title for profile in found), DTYPES)
    columns = [_worst([profile for profile in found if profile.title == dtype]) for dtype in dtypes]
    ranked = [column[rank] for rank in range(MOST) for column in columns if rank < len(column)]
    return ranked, len(dtypes)


def _worst(found: Sequence[Profile]) -> list[Profile]:
    ordered = sorted(found, key=lambda profile: profile.note)
    ordered.sort(key=lambda profile: severity(profile.result), reverse=True)
    first = {text(profile.result, "runner"): profile for profile in reversed(ordered)}
    heads = [profile for profile in ordered if first[text(profile.result, "runner")] is profile]
    return [*heads, *(profile for profile in ordered if profile not in heads)][:MOST]


def _profile(result: Row) -> Profile:
    profile = mapping(result, "profile")
    points = [_point(point) for point in sequence(profile, "points")]
    counts = [count or 0.0 for count in numbers(profile, "histogram")]
    return Profile(result, [point for point in points if point], counts if len(counts) == BINS else [])


def _point(values: object) -> tuple[float, float, float] | None:
    if not isinstance(values, list | tuple) or len(values) != 3:
        return None
    reference, error, budget = map(finite, values)
    if reference is None or error is None or budget is None:
        return None
    return abs(reference), abs(error), budget
