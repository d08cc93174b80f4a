"""The result of one tensor, and groups of results of which the worst one speaks."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from eca_multi.parity.define.checks import BASE
from eca_multi.parity.judge.compare import Verdict

from .reading import Row, read, sequence
from .wording import TIMES, count, plain, reach_words, use, words

GREEN = frozenset(str(verdict) for verdict in Verdict if verdict.green)
OPEN = frozenset({"UNSUPPORTED", "INCONCLUSIVE"})  # the run has shown neither that the tensor is right nor wrong
ROUNDING = "ROUNDING"  # off by more than the budget, and not by a fault of the runner
# A few letters for a cell without a number.
SHORT = {
    "NONFINITE_MISMATCH": "inf",
    "SHAPE_MISMATCH": "shape",
    "DTYPE_MISMATCH": "dtype",
    "MISSING_TAP": "tap",
    "ERROR": "error",
    "UNSUPPORTED": "n/a",
    "INCONCLUSIVE": "?",
    "ROUNDING": "round",
}


@dataclass(frozen=True)
class Result:
    """One tensor of one case in one dtype by one runner, in one check. The fields are those of the JSON."""

    runner: str
    case: str
    dtype: str
    check: str
    tensor: str
    verdict: str
    reason: str
    budget: str
    expected: str
    received: str
    budget_use: float | None
    min_c: float | None
    max_abs: float | None
    max_ulp: float | None
    max_rel: float | None
    snr_db: float | None
    peer_ratio: float | None
    reach: float | None
    blame: str
    cause: str
    index: str

    @property
    def is_green(self) -> bool:
        return self.verdict in GREEN

    @property
    def is_open(self) -> bool:
        return self.verdict in OPEN

    @property
    def fails(self) -> bool:
        """Whether the result is red. A verdict that this version does not know is red too."""
        return not self.is_green and not self.is_open and not self.is_rounding

    @property
    def is_rounding(self) -> bool:
        return self.verdict == ROUNDING

    @property
    def is_without_result(self) -> bool:
        """Whether there was no tensor to judge: the runner raised, or the reference has died."""
        return self.verdict == "ERROR" or (self.verdict == "INCONCLUSIVE" and not self.budget)

    @property
    def is_open_tap(self) -> bool:
        """Whether a tap was judged without an answer; the exit status is that of the results that it leads to."""
        return self.check == "taps" and self.verdict == "INCONCLUSIVE" and bool(self.budget)

    @property
    def is_manual(self) -> bool:
        return self.budget == "manual"

    @property
    def where(self) -> str:
        return f"{self.case}, {self.tensor}{' at ' + self.index if self.index else ''}"

    @property
    def severity(self) -> tuple[int, float]:
        """A sort key: failures, inconclusive results, rounding, green and unsupported results; then the budget use."""
        if self.verdict == "BITWISE":  # the distance of the right bits from the exact value is no fault
            return 1, 0.0
        kinds = (self.is_green, self.is_rounding, self.verdict == "INCONCLUSIVE", self.fails)
        rank = next((rank for rank, holds in enumerate(kinds, 1) if holds), 0)
        unmeasured = math.inf if self.fails else -1.0  # a failure without a number is worse than any number
        return rank, unmeasured if self.budget_use is None else self.budget_use

    @property
    def name(self) -> str:
        """The runner, dtype, case, check and tensor; forward and gradients go without the name of their check."""
        check = () if self.check in BASE else (self.check,)
        return " ".join((self.runner, self.dtype, self.case, *check, self.tensor))

    def describe(self, *, traceback: bool = False) -> str:
        """Return the verdict, the place and size of the failure, and the reason (its last line without `traceback`)."""
        said = self.verdict
        if self.fails or self.is_rounding:
            values = [f"{key} {value}" for key in ("expected", "received") if (value := getattr(self, key))]
            values += [] if self.min_c is None else [f"passes from c = {plain(self.min_c)}"]
            budget = "tolerance set by hand" if self.is_manual else "budget"
            said += "" if self.budget_use is None else f", {use(self.budget_use)} x the {budget}"
            said += f" at {self.index}" if self.index else ""
            said += f": {', '.join(values)}" if values else ""
        reason = self.reason.strip()
        notes = [reason if traceback else reason.splitlines()[-1]] if reason else []
        notes += [note for note in (self.cause, self.blame) if note]
        return f"{said}: {'; '.join(notes)}" if notes else said


def read_result(row: Row) -> Result:
    index = ", ".join(map(str, sequence(row, "index")))
    return read(Result, row, index=f"[{index}]" if index else "")


@dataclass(frozen=True)
class Group:
    """Results that a reader sees as one cell: those of a runner in one dtype and some checks."""

    results: Sequence[Result]

    @cached_property
    def worst(self) -> Result:
        """The most severe result; among equals, the first by case and tensor."""
        ordered = sorted(self.results, key=lambda result: (result.case, result.tensor))
        return max(ordered, key=lambda result: result.severity)

    @property
    def is_bitwise(self) -> bool:
        return all(result.verdict == "BITWISE" for result in self.results)

    @property
    def is_partly_open(self) -> bool:
        """Whether some tensors pass and others are not supported."""
        verdicts = {result.verdict for result in self.results}
        return "UNSUPPORTED" in verdicts and bool(verdicts & GREEN)

    @property
    def label(self) -> str:
        """The worst budget use, "=" where every bit is right, or some letters where there is no number."""
        if self.is_bitwise:
            return "="
        return (SHORT.get(self.worst.verdict) or use(self.worst.budget_use)) + ("ᵐ" if self.worst.is_manual else "")

    @property
    def tip(self) -> str:
        """Three lines: which cell this is, its worst tensor, and the number of tensors with each verdict."""
        worst = self.worst
        amount = "" if worst.budget_use is None else f"{use(worst.budget_use)} {TIMES} budget, "
        manual = ", tolerance set by hand" if worst.is_manual else ""
        kinds = Counter(words(result.verdict) for result in self.results)
        reaches = [result.reach for result in self.results if result.reach is not None]
        reach = f"\n{reach_words(min(reaches))}" if reaches else ""
        return (
            f"{worst.runner} · {words(worst.check)} · {worst.dtype}\n"
            f"worst: {worst.where}: {amount}{words(worst.verdict)}{manual}\n"
            f"{count(len(self.results), 'tensor')}: {', '.join(f'{kinds[kind]} {kind}' for kind in sorted(kinds))}"
            f"{reach}"
        )


def worst_first(results: Iterable[Result]) -> list[Result]:
    return sorted(results, key=lambda r: (-r.severity[1], r.case, r.dtype, r.check, r.tensor))
