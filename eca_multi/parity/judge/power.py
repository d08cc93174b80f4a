"""The power of cases: which seeded faults the verdict finds in each one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.runners import MUTANTS, Runner
from eca_multi.parity.define.tensor import Outputs, Solution
from eca_multi.parity.execute.exchange import Exchange, failure, no_answer
from eca_multi.parity.execute.messages import Do, Malformed, bounded
from eca_multi.parity.execute.results import Delivery
from eca_multi.parity.execute.session import Session
from eca_multi.parity.execute.tasks import Task

from .cell import Cell
from .compare import Judgement, Verdict
from .verdicts import Judge


@dataclass(frozen=True)
class Power:
    """Which mutants a case kills: those of which any tensor has a verdict that disagrees."""

    case: str
    dtype: str
    killed: tuple[str, ...]
    survived: tuple[str, ...]
    not_applicable: tuple[str, ...] = ()


def measure_power(
    session: Session, judge: Judge, tasks: Sequence[Task], torch: Runner | None
) -> Iterator[Power | Cell]:
    """Yield the power of each task's case, or a cell with the reason why it was not measured.

    `torch` is the runner whose PyTorch layer is mutated.
    """
    # No fault shows in an empty batch, whose case is there to see that nothing raises.
    plain = [task for task in tasks if task.do is Do.EVALUATE and not task.check]
    plain = [task for task in plain if all(array.size for array in task.job.inputs.values())]
    reason = "no torch adapter to mutate" if torch is None else torch.unavailable()
    for task in plain:
        if torch is None or reason:
            yield _unmeasured(task, Verdict.UNSUPPORTED, reason or "")
        elif task.oracle is None or task.oracle not in session.solutions:
            yield _unmeasured(task, Verdict.ERROR, session.no_solution)
        else:
            runner, solution = replace(torch, name=MUTANTS), session.solutions[task.oracle]
            yield _measure(session.exchange, replace(judge, checks=BASE), task, runner, solution)


def _measure(exchange: Exchange, judge: Judge, task: Task, runner: Runner, solution: Solution) -> Power | Cell:
    question = replace(task, do=Do.POWER, job=replace(task.job, twice=False))
    [answer] = exchange.ask(runner, [question])
    if not isinstance(answer, Delivery):
        return _unmeasured(task, Verdict.ERROR, failure(answer).reason)
    try:
        by_mutant = {bounded(name): results for name, results in answer.by_group().items()}
    except Malformed as error:
        return _unmeasured(task, Verdict.ERROR, failure(exchange.condemn(runner, no_answer(error))).reason)
    return judge_power(judge, task, {**dict.fromkeys(answer.answer.not_applicable), **by_mutant}, solution)


def judge_power(judge: Judge, task: Task, by_mutant: Mapping[str, Outputs | None], solution: Solution) -> Power:
    """Sort a case's mutants: killed by any tensor's verdict, survived, or (None) not applicable to the layer.

    Only a verdict kills. A tensor that could not be compared says nothing about a mutant.
    """
    fates: dict[str, list[str]] = {"killed": [], "survived": [], "not_applicable": []}
    for name, results in by_mutant.items():
        if results is None:
            fates["not_applicable"].append(name)
        else:
            cells = judge.cells(name, task, results, solution)
            fates["killed" if any(cell.verdict.disagrees for cell in cells) else "survived"].append(name)
    return Power(task.job.case, task.job.dtype, **{fate: tuple(names) for fate, names in fates.items()})


def without_power(cells: Iterable[Cell], powers: Iterable[Power]) -> list[Cell]:
    powerless = {(power.case, power.dtype) for power in powers if not power.killed}
    reason = "this case kills no mutant: a wrong layer would pass it too"
    return [
        replace(cell, judgement=replace(cell.judgement, verdict=Verdict.INCONCLUSIVE), reason=reason)
        if cell.green and (cell.case, cell.dtype) in powerless
        else cell
        for cell in cells
    ]


def _unmeasured(task: Task, verdict: Verdict, reason: str) -> Cell:
    return Cell("torch", task.case, task.job.dtype, "power", "", Judgement(verdict), reason=reason)
