"""Training: how far each runner's weights drift from the reference's, and the band in which rounding alone would."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .reading import Row, numbers, text
from .wording import plain

Pairs = tuple[tuple[float, float], ...]  # step, value


@dataclass(frozen=True)
class Drift:
    """The drift of one runner: its line, the band, and the worst budget use of a single step."""

    runner: str
    line: Pairs
    band: Pairs
    one_step: float | None

    @property
    def leaves_the_band(self) -> bool:
        limits = dict(self.band)
        return any(value > limits.get(step, value) for step, value in self.line)


@dataclass(frozen=True)
class Training:
    """The drifts of all runners with one optimizer, case and dtype."""

    optimizer: str
    case: str
    dtype: str
    drifts: tuple[Drift, ...]

    @property
    def outside(self) -> list[str]:
        return [drift.runner for drift in self.drifts if drift.leaves_the_band]

    @property
    def label(self) -> str:
        return (
            f"Drift of the weights over the training steps, {self.dtype}, {self.optimizer}, case {self.case}. "
            f"Outside of the band: {', '.join(sorted(self.outside)) or 'no runner'}."
        )

    @property
    def head(self) -> list[str]:
        return ["Step", *(name for drift in self.drifts for name in (drift.runner, "its band"))]

    @property
    def rows(self) -> list[list[str]]:
        pairs = [dict(values) for drift in self.drifts for values in (drift.line, drift.band)]
        steps = sorted({step for drift in self.drifts for step, _ in drift.line})
        return [[plain(step), *(plain(values.get(step)) for values in pairs)] for step in steps]


def read_trainings(rows: Sequence[Row], rank: Callable[[str], Any]) -> list[Training]:
    """Return the trainings that have a drift to show; `rank` orders the runners."""
    groups: dict[tuple[str, str, str], dict[str, Drift]] = {}
    for row in rows:
        if line := _pairs(row, "drift"):
            names = (text(row, "optimizer"), text(row, "case"), text(row, "dtype"))
            uses = [value for value in numbers(row, "one_step") if value is not None]
            drift = Drift(text(row, "runner"), line, _pairs(row, "band"), max(uses, default=None))
            groups.setdefault(names, {})[drift.runner] = drift
    return [
        Training(*names, tuple(sorted(drifts.values(), key=lambda drift: rank(drift.runner))))
        for names, drifts in groups.items()
    ]


def _pairs(row: Row, name: str) -> Pairs:
    """Steps with their values, in order; a step without a value is left out."""
    pairs = zip(numbers(row, "steps"), numbers(row, name), strict=False)
    return tuple(sorted((step, abs(value)) for step, value in pairs if step is not None and value is not None))
