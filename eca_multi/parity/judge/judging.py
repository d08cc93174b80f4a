"""The judging of a run: each outcome of a session becomes cells, and training a trajectory too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.job import float_inputs
from eca_multi.parity.define.runners import Runner
from eca_multi.parity.define.spec import Manual
from eca_multi.parity.define.tensor import Cotangent, Kind, Quantity
from eca_multi.parity.execute.exchange import Failure
from eca_multi.parity.execute.messages import Do, Explained
from eca_multi.parity.execute.session import Results, Session
from eca_multi.parity.execute.tasks import Task

from .blame import HALVES, NAMES, Place, Witnesses, blamed, excusable, place
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


def assign_blame(session: Session, judged: Judged, tasks: Sequence[Task], *, strict: bool) -> None:
    """Say of each red cell whose fault it is, and take the framework's rounding for what it is (blame.py).

    With `strict` nothing is rounding. The reference's own layer and the probes run only where a cell may need them.
    """
    runners = {runner.name: runner for runner in session.runners}
    candidates = [] if strict else excusable(judged.cells)
    if not any(cell.verdict.disagrees for cell in judged.cells):
        return
    judged.cells = blamed(
        judged.cells,
        Witnesses(
            judged.judge.c,
            {name: _framework(state.versions) for name, state in session.states.items()},
            _own_run(session, judged, tasks, candidates) if candidates else {},
            _framework(session.reference_versions),
            _axes_of_gradients(tasks),
            _operations(session, tasks),
            lambda name: session.fingerprint(runners[name]) if name in runners else {},
            excuses=not strict,
        ),
    )


def _framework(versions: Mapping[str, str]) -> str:
    """Return the framework that computes: Keras and Flax name theirs beside themselves."""
    return next((name for name in NAMES if name in versions), "")


def _own_run(session: Session, judged: Judged, tasks: Sequence[Task], candidates: Sequence[Cell]) -> dict[Place, Cell]:
    """Return the cells of the reference's own layer in half precision, where a cell in question has its place.

    A runner with the reference's adapter has them already. A NumPy function computes in no half precision of its own.
    """
    twin = next((runner.name for runner in session.runners if runner.adapter == session.reference.adapter), None)
    if twin is not None:
        return {place(cell): cell for cell in judged.cells if cell.runner == twin}
    if "torch" not in session.reference_versions or session.lost:
        return {}
    wanted = {(cell.case, cell.dtype, "" if cell.check in (*BASE, "compiled") else cell.check) for cell in candidates}
    again = [
        task for task in tasks if task.do is Do.EVALUATE and task.key in wanted and task.oracle in session.solutions
    ]
    layer = replace(session.reference, name="reference-in-half", role="runner")
    results = session.exchange.evaluate(layer, [replace(task.job, twice=False) for task in again])
    own: dict[Place, Cell] = {}
    for task, result in zip(again, results, strict=True):
        if task.oracle is not None and not isinstance(result, Failure):
            for cell in judged.judge.cells(layer.name, task, result, session.solutions[task.oracle]):
                checks = (cell.check,) if task.check else (cell.check, "compiled")
                own |= {(cell.case, cell.dtype, check, cell.tensor): cell for check in checks}
    return own


def _operations(session: Session, tasks: Sequence[Task]) -> Callable[[Place], str]:
    """Return a function that names the operation beside a tensor, as `Witnesses.operation` is to."""

    @cache
    def by_label(case: str, dtype: str) -> dict[str, str]:
        job = next(task.job for task in tasks if (task.case, task.job.dtype, task.do) == (case, dtype, Do.EVALUATE))
        explained = session.exchange.explain(session.reference, replace(job, compiled=False, twice=False))
        if not isinstance(explained, Explained):  # no PyTorch layer
            return {}
        named = {
            Quantity(Kind.WEIGHT_GRADIENT, name, cotangent): Quantity(Kind.WEIGHT_GRADIENT, name).key
            for name in job.weights
            for cotangent in Cotangent
        }
        found = {
            q.label: explained.stages[key].partition(" ")[0] for q, key in named.items() if key in explained.stages
        }
        everywhere = {name for names in explained.stages.values() for name in names.split()}
        if len(everywhere) == 1:
            ends = [Quantity(Kind.OUTPUT, name) for name in job.outputs]
            ends += [Quantity(Kind.INPUT_GRADIENT, n, c) for n in float_inputs(job) for c in Cotangent]
            found |= dict.fromkeys((quantity.label for quantity in ends), everywhere.pop())
        return found

    return lambda place: by_label(place[0], place[1]).get(place[3], "")


def _axes_of_gradients(tasks: Sequence[Task]) -> dict[Place, int]:
    """Return how many axes the weight has whose gradient stands at a place."""
    return {
        (task.case, task.job.dtype, check, Quantity(Kind.WEIGHT_GRADIENT, name, cotangent).label): len(axes)
        for task in tasks
        if task.do is Do.EVALUATE and task.job.dtype in HALVES
        for name, axes in task.job.weight_axes.items()
        if name in task.job.weights
        for cotangent in Cotangent
        for check in ([task.check] if task.check else ["weight_grad"])
    }
