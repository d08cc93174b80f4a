"""The sight of cases: which faults of porting the verdict could see in each one, and which it could not.

A run that is green says nothing of a fault that its data hide. So the faults run beside every specification whose
reference, or one of whose runners, is a PyTorch layer with the operation. The reference's own process evaluates them:
it has the layer, and it is done. Gradients are taken only where outputs alone do not show every fault.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.tensor import Outputs, Solution
from eca_multi.parity.execute.exchange import failure, no_answer
from eca_multi.parity.execute.messages import Do, Malformed, Refused
from eca_multi.parity.execute.results import Delivery
from eca_multi.parity.execute.session import Session
from eca_multi.parity.execute.tasks import Task

from .verdicts import Judge


@dataclass(frozen=True)
class Sight:
    """The faults of porting that a case would show in a dtype, and those that it cannot see.

    `reason` says why nothing is known, where a process raised or ended.
    """

    case: str
    dtype: str
    seen: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    reason: str = ""


def measure_sight(session: Session, judge: Judge, tasks: Sequence[Task]) -> list[Sight]:
    """Return the sight of each plain evaluation's case and dtype; nothing where no fault has its operation."""
    # An analytic budget is that of an author, who measures its cases by the check power.
    if session.budget in ("", "analytic") or session.lost:
        return []
    plain = [task for task in tasks if task.do is Do.EVALUATE and not task.check and task.oracle in session.solutions]
    plain = [task for task in plain if all(array.size for array in task.job.inputs.values())]
    judge = replace(judge, checks=BASE, details=False)
    sights = [_sight(session, judge, _question(task, gradients=False)) for task in plain]
    for n, (task, sight) in enumerate(zip(plain, sights, strict=True)):
        if sight.unseen and task.job.gradients:
            deeper = _sight(session, judge, _question(task, gradients=True), sight.seen)
            sights[n] = replace(deeper, seen=(*sight.seen, *deeper.seen))
    return [sight for sight in sights if sight.seen or sight.unseen or sight.reason]


def _question(task: Task, *, gradients: bool) -> Task:
    return replace(task, do=Do.SIGHT, job=replace(task.job, twice=False, compiled=False, gradients=gradients))


def _sight(session: Session, judge: Judge, task: Task, seen: Collection[str] = ()) -> Sight:
    """Ask the first of the runners that has a PyTorch layer; judge all faults but those that are seen already."""
    nothing = Sight(task.case, task.job.dtype)
    for runner in [session.reference, *(runner for runner in session.runners if runner.framework == "torch")]:
        [answer] = session.exchange.ask(runner, [task])
        if isinstance(answer, Refused):
            continue
        if not isinstance(answer, Delivery):
            return replace(nothing, reason=failure(answer).reason)
        try:
            by_fault = answer.by_group()
        except Malformed as error:
            return replace(nothing, reason=failure(session.exchange.condemn(runner, no_answer(error))).reason)
        by_fault = {name: found for name, found in by_fault.items() if name not in seen}
        return judge_sight(judge, task, by_fault, session.solutions[task.oracle]) if task.oracle else nothing
    return nothing


def judge_sight(judge: Judge, task: Task, by_fault: Mapping[str, Outputs], solution: Solution) -> Sight:
    """Sort the faults of a case: seen by any tensor's verdict, or not.

    A tensor that disagrees without a fault too (the group "") tells nothing.
    """
    red = {name: _red(judge, task, results, solution) for name, results in by_fault.items()}
    usual = red.pop("", set())
    fates: dict[bool, list[str]] = {True: [], False: []}
    for name, tensors in red.items():
        fates[bool(tensors - usual)].append(name)
    return Sight(task.case, task.job.dtype, tuple(fates[True]), tuple(fates[False]))


def _red(judge: Judge, task: Task, results: Outputs, solution: Solution) -> set[tuple[str, str]]:
    cells = judge.cells("", task, results, solution)
    return {(cell.check, cell.tensor) for cell in cells if cell.verdict.disagrees}
