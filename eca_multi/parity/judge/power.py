"""Judging mutants: which planted faults the verdict finds in a case."""

from collections.abc import Mapping
from dataclasses import dataclass

from eca_multi.parity.define.tensor import Outputs, Solution
from eca_multi.parity.execute.tasks import Task

from .verdicts import Judge


@dataclass(frozen=True)
class Power:
    """Which mutants a case kills: those whose verdict is not green, in any tensor."""

    case: str
    dtype: str
    killed: tuple[str, ...]
    survived: tuple[str, ...]
    not_applicable: tuple[str, ...] = ()


def judge_power(judge: Judge, task: Task, by_mutant: Mapping[str, Outputs | None], solution: Solution) -> Power:
    """Sort a case's mutants: killed by any tensor's verdict, survived, or (None) not applicable to the layer.

    Only a verdict kills. A tensor that could not be compared says nothing about a mutant.
    """
    found: dict[str, list[str]] = {"killed": [], "survived": [], "not_applicable": []}
    for name, results in by_mutant.items():
        if results is None:
            found["not_applicable"].append(name)
        else:
            cells = judge.cells(name, task, results, solution)
            found["killed" if any(cell.verdict.disagrees for cell in cells) else "survived"].append(name)
    return Power(task.job.case, task.job.dtype, **{fate: tuple(names) for fate, names in found.items()})
