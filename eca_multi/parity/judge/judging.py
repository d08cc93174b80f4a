"""The judging of a run: each outcome of a session becomes cells, and training a trajectory too."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from eca_multi.parity.define.runners import Runner
from eca_multi.parity.define.spec import Manual
from eca_multi.parity.execute.messages import Do
from eca_multi.parity.execute.session import Results, Session
from eca_multi.parity.execute.tasks import Task

from .cell import Cell
from .drift import Trajectory, measure_drift
from .power import Power, measure_power, without_power
from .sight import Sight, measure_sight
from .verdicts import Judge


@dataclass
class Judged:
    judge: Judge
    cells: list[Cell] = field(default_factory=list)
    trajectories: list[Trajectory] = field(default_factory=list)
    power: list[Power] = field(default_factory=list)
    sight: list[Sight] = field(default_factory=list)


def judge_session(session: Session, tasks: Sequence[Task], checks: tuple[str, ...], manual: Manual | None) -> Judged:
    """Run a session, and judge each outcome as it comes: tensors are not kept.

    Raises SpecError if the reference cannot be right.
    """
    judged = Judged(Judge(checks, "manual" if manual else "", manual))
    for runner, task, outcome in session.run(tasks):
        judged.judge = _of_reference(judged.judge, session)
        judged.cells += judged.judge.outcome(runner.name, task, outcome, session.cannot.get(runner.name, {}))
        if task.do is Do.TRAIN and isinstance(outcome, Results):
            judged.trajectories.append(measure_drift(judged.judge, runner.name, task, outcome))
    judged.judge = _of_reference(judged.judge, session)
    for name, state in session.states.items():
        state.unanswered = sum(len(list(judged.judge.expected(task))) for task in session.open[name])
    return judged


def _of_reference(judge: Judge, session: Session) -> Judge:
    """Give a judge without a budget by hand the kind of budget that the reference has said."""
    return judge if judge.manual else replace(judge, kind=session.budget)


def judge_cases(session: Session, judged: Judged, tasks: Sequence[Task], torch: Runner | None) -> None:
    """Measure the power of the cases: the cells of one that kills no mutant of `torch` become inconclusive."""
    for item in measure_power(session, judged.judge, tasks, torch):
        if isinstance(item, Power):
            judged.power.append(item)
        else:
            judged.cells.append(item)
    judged.cells = without_power(judged.cells, judged.power)


def judge_sight(session: Session, judged: Judged, tasks: Sequence[Task]) -> None:
    """Measure which faults of porting the cases could see. No verdict depends on the answer."""
    judged.sight = measure_sight(session, judged.judge, tasks)
