"""One cause, one line: the failures of a report grouped by runner and by the stage where the fault begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from eca_multi.parity.define.dtypes import DTYPES

from .localised import Localised
from .reading import in_order
from .results import Result, worst_first
from .wording import count

SHOWN = 4  # names in a list before the rest is counted


@dataclass(frozen=True)
class Cause:
    """The failures of one runner that have one cause, the worst first.

    `stage` is the first stage that fails by itself in the run again, and "" where that is not known.
    """

    runner: str
    stage: str
    results: tuple[Result, ...]

    @property
    def worst(self) -> Result:
        return self.results[0]

    @cached_property
    def extent(self) -> str:
        """Say how many more tensors fail, in which cases and dtypes; "" for a single one."""
        if len(self.results) == 1:
            return ""
        cases, tensors = ([getattr(r, name) for r in self.results] for name in ("case", "tensor"))
        dtypes = in_order((result.dtype for result in self.results), DTYPES)
        named = f"{some(tensors)} in {count(len(set(cases)), 'case')} and {', '.join(dtypes)}"
        return f"{count(len(self.results) - 1, 'more tensor')} of the same cause ({named})"

    @property
    def line(self) -> str:
        begins = f" The fault begins at {self.stage}." if self.stage else ""
        extent = f", and {self.extent}" if self.extent else ""
        return f"{self.worst.name}: {self.worst.describe()}{extent}.{begins}" if extent or begins else self.plain

    @property
    def plain(self) -> str:
        """The line of a single failure."""
        return f"{self.worst.name}: {self.worst.describe()}"


def causes(results: Sequence[Result], localisations: Sequence[Localised]) -> list[Cause]:
    """Group failures, the largest group's worst first within each runner.

    Two failures of a runner have one cause if they were localised to one stage, in whatever dtype; or, without a
    localisation in their dtype, if they are the same tensor with the same kind of verdict. Errors have one cause if
    their last lines are equal.
    """
    stages = {(item.runner, item.dtype): item.culprit for item in localisations}
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(_key(result, stages), []).append(result)
    made = [Cause(key[0], key[2] if key[1] == "stage" else "", tuple(worst_first(g))) for key, g in groups.items()]
    return sorted(made, key=lambda cause: (-cause.worst.severity[0], -cause.worst.severity[1]))


def _key(result: Result, stages: Mapping[tuple[str, str], str]) -> tuple[str, ...]:
    if result.verdict == "ERROR":
        return result.runner, "error", (result.reason.strip().splitlines() or [""])[-1]
    # The stages are those of one evaluation: what was read back or trained is judged by other means.
    stage = stages.get((result.runner, result.dtype)) if result.check not in ("roundtrip", "determinism") else None
    if stage and result.verdict in ("EXCEEDS_BUDGET", "NONFINITE_MISMATCH", "SHAPE_MISMATCH"):
        return result.runner, "stage", stage
    return result.runner, "tensor", result.tensor.removesuffix("@ones"), result.verdict, result.check


def some(names: Sequence[str]) -> str:
    different = sorted(set(names))
    rest = len(different) - SHOWN
    return ", ".join(different[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
