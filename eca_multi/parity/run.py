"""The parity run: the same weights, inputs and cotangents to every runner, and a verdict on each tensor."""

import contextlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eca_multi._files.scratch import scratch_folder

from .define.adapters import unsupported
from .define.axes import SpecError
from .define.checks import CHECKS, DEFAULT_CHECKS, check_names
from .define.dtypes import DTYPES
from .define.job import Job, pack_job
from .define.runners import REFERENCE, Runner, UsageError, find_runners, reference_of, refuse_in_worker
from .define.spec import Spec
from .define.tensor import Kind, Outputs, Solution
from .execute.messages import (
    Answer,
    Computed,
    Do,
    Greeting,
    Malformed,
    Measured,
    Raised,
    Refused,
    Request,
    Said,
    Unwritten,
    WrongAdapter,
)
from .execute.pool import Lost, Pool
from .execute.results import load, load_outputs, load_solution, write_arrays
from .execute.state import RunnerState, state_of
from .execute.tasks import Task, tasks
from .explain.investigate import investigate, measure_power, take_fingerprint
from .judge.cell import Cell
from .judge.compare import Judgement, Verdict
from .judge.drift import check_trained, measure_drift
from .judge.verdicts import Judge, check_finite, unavailable
from .report.report import Report
from .specs import find_spec

Progress = Callable[[str, int, int], None]


def run(
    spec: "Spec | str" = "eca",
    *,
    runners: Sequence[str] | str | None = None,
    dtypes: Sequence[str] | str | None = None,
    cases: Sequence[str] | str | None = None,
    checks: Sequence[str] | str | None = None,
    optimizer: str = "textbook",
    require: Sequence[str] | str = (),
    timeout: float = 180.0,
    workers: int | None = None,
    progress: Progress | None = None,
    bundles: str | os.PathLike[str] | None = None,
) -> Report:
    """Compare implementations of a layer with the float64 reference.

    Every runner gets a process of its own, the same quantised weights, inputs and cotangents, and is judged by the same
    elementwise error budget (docs/parity.md). Workers import the file of their adapter: in a script, put the call under
    `if __name__ == "__main__":`. Where names are listed, a str is one name.

    Args:
        spec: A `Spec`, the name of one that comes with the package, or "file.py" or "file.py:NAME".
        runners: Names of the specification's runners, or "file.py:Class" for an `Adapter` of your own. None takes all.
        dtypes: Out of "float32", "bfloat16", "float16". None takes all.
        cases: Names of the specification's cases. None takes all.
        checks: Names out of `CHECKS`, or "all". None takes forward, input_grad, weight_grad and compiled.
        optimizer: What updates the weights in the check trajectory: "textbook", the harness's own rule for all, so that
            gradients are compared; or "native", each framework's own optimizer of that kind.
        require: Runners whose absence is a failure. Others that are not installed are only reported.
        timeout: Seconds that a worker may say nothing.
        workers: Processes at a time. None takes the number of processors.
        progress: Called as progress(what, done, total) as results come in.
        bundles: Folder for what `replay` needs of each failure. None writes none.

    Raises:
        SpecError: If the specification cannot be right, or a name is unknown (UsageError). It is a ValueError.

    Example:
        >>> from eca_multi import parity
        >>> report = parity.run(runners=["torch"], dtypes=["float32"], cases=["offsets"])
        >>> report.raise_for_status()
    """
    refuse_in_worker("run")
    spec, source = find_spec(spec)
    chosen = find_runners(spec, runners)
    require = [require] if isinstance(require, str) else require
    wanted = CHECKS if checks == "all" else DEFAULT_CHECKS if checks is None else checks
    asked = tuple(check_names("check", wanted, CHECKS))
    check_names("optimizer", optimizer, ("textbook", "native"))
    if optimizer == "native" and "trajectory" not in asked:
        raise UsageError("optimizer='native' is for the check trajectory. Ask for it, or leave the optimizer out.")
    kinds = check_names("dtype", spec.dtypes if dtypes is None else dtypes, list(DTYPES))
    names = check_names("case", cases, [case.name for case in spec.cases])
    check_names("required runner", require, [runner.name for runner in chosen])
    limit = processors() if workers is None else workers
    for name, number in (("workers", limit), ("timeout", timeout)):
        if not number > 0:
            raise UsageError(f"{name} must be positive. Received: {name}={number}.")
    plan = tasks(spec, [spec.case(name) for name in names], kinds, asked, native=optimizer == "native")
    return run_tasks(
        spec,
        source,
        plan,
        chosen,
        asked,
        timeout=timeout,
        workers=limit,
        require=require,
        progress=progress,
        bundles=bundles,
        explicit=checks is not None,
    )


def run_tasks(
    spec: Spec,
    source: str,
    plan: list[Task],
    runners: list[Runner],
    checks: tuple[str, ...],
    *,
    timeout: float,
    workers: int | None = None,
    require: Sequence[str] = (),
    progress: Progress | None = None,
    bundles: str | os.PathLike[str] | None = None,
    explicit: bool = True,
) -> Report:
    """Have a plan done, and return what was found."""
    states = {runner.name: state_of(runner) for runner in runners}
    names = {task.case for task in plan}
    report = Report(
        list(states.values()),
        required=tuple(require),
        environment=environment(),
        spec={"name": spec.name, "source": source, "hash": spec.digest(), "layout": spec.layout},
        cases=tuple({"name": case.name, "why": case.why} for case in spec.cases if case.name in names),
    )
    place = None if bundles is None else Path(bundles)
    available = [runner for runner in runners if states[runner.name].state == "ran"]
    with (
        scratch_folder("eca-parity") as folder,
        Pool(folder, workers=workers or processors(), timeout=timeout) as pool,  # ended before their folder goes
    ):
        Session(spec, plan, available, report, pool, folder, checks, progress, explicit, place).go()
    report.finish()
    return report


def fingerprints(
    spec: "Spec | str" = "eca", *, runners: Sequence[str] | str | None = None, timeout: float = 180.0
) -> list[RunnerState]:
    """Measure how each runner computes here; see `eca_multi.parity.explain.fingerprints`."""
    refuse_in_worker("fingerprints")
    spec, _ = find_spec(spec)
    chosen = find_runners(spec, runners)
    states = {runner.name: state_of(runner) for runner in chosen}
    with (
        scratch_folder("eca-parity") as folder,
        Pool(folder, workers=processors(), timeout=timeout) as pool,
    ):
        available = [runner for runner in chosen if states[runner.name].state == "ran"]
        request = Request(0, Do.FINGERPRINT)
        for runner, said in pool.run([(runner, [request]) for runner in available]):
            state = states[runner.name]
            match said:
                case Greeting():
                    state.versions = dict(said.versions)
                case Measured():
                    state.fingerprint = dict(said.fingerprint)
                case Raised():
                    state.detail = said.text
                case Lost():
                    state.state, state.detail = said.kind, said.detail
    return list(states.values())


class Session:
    """The files and solutions of one run, and the judging of what comes in."""

    def __init__(
        self,
        spec: Spec,
        plan: list[Task],
        runners: list[Runner],
        report: Report,
        pool: Pool,
        folder: Path,
        checks: tuple[str, ...],
        progress: Progress | None,
        explicit: bool,
        bundles: Path | None,
    ) -> None:
        self.explicit, self.bundles = explicit, bundles
        self.spec, self.plan, self.runners, self.report, self.pool = spec, plan, runners, report, pool
        self.folder, self.checks, self.progress = folder, checks, progress
        self.states = {state.name: state for state in report.runners}
        self.reference = reference_of(spec)
        self.judge = Judge(checks, "manual" if spec.budget else "", spec.budget)
        self.solutions: dict[tuple[str, str, str], Solution] = {}
        self.waiting: dict[tuple[str, str, str], list[tuple[Runner, Task, Answer]]] = {}
        self.asked: dict[int, tuple[Runner, Task]] = {}
        self.unsupported: dict[str, Mapping[str, str]] = {}
        self.wrong = ""  # what cannot be right in the specification, as its reference shows
        self.lost = ""  # how the reference ended, where it has died
        self.faults: dict[str, str] = {}  # by runner: why what was asked beside the plan has no answer
        self.done = self.files = 0
        self.total = sum(len(self._tasks_of(runner)) for runner in runners)

    def go(self) -> None:
        """Ask everybody; what needs the reference's training comes after it."""
        if not self.runners and "power" not in self.checks:
            return
        self._tell("starting")
        solved = {task.oracle: task for task in self.plan if task.oracle is not None}
        questions = [self._request(self.reference, _as_question(task), _SOLVE[task.do]) for task in solved.values()]
        self._exchange([(self.reference, questions), *self._batches(lambda task: task.do is not Do.TRAIN)])
        self._train()
        if self.explicit and set(self.checks) == set(CHECKS):
            for runner in self.runners:
                take_fingerprint(self, runner)
        if "power" in self.checks:
            measure_power(self)
        investigate(self, self.bundles)

    def _train(self) -> None:
        """Ask for the training, which starts from the reference's points."""
        reason = self._nothing_to_judge_by() if self.lost else ""
        if not self.lost:
            self.plan = [self._with_points(task) if task.do is Do.TRAIN else task for task in self.plan]
            try:
                batches = self._batches(lambda task: task.do is Do.TRAIN)
            except OSError as error:  # no room for the points: what was judged stands
                reason = str(error)
            else:
                self._exchange(batches)
        for runner in self.runners if reason else ():
            self._leave_open(runner, [task for task in self._tasks_of(runner) if task.do is Do.TRAIN], reason)

    def _batches(self, wanted: Callable[[Task], bool]) -> list[tuple[Runner, list[Request]]]:
        return [(r, [self._request(r, task) for task in self._tasks_of(r) if wanted(task)]) for r in self.runners]

    def _tasks_of(self, runner: Runner) -> list[Task]:
        """What a runner is asked: what takes it minutes, only by name."""
        return [task for task in self.plan if self.explicit or task.check not in runner.slow]

    def _with_points(self, task: Task) -> Task:
        """Give a training job the weights and optimizer states from which each step starts."""
        solution = self.solutions[task.oracle] if task.oracle else {}
        starts = (Kind.START, Kind.SLOT)
        given = {q: value.astype(np.float32) for q, (value, _) in solution.items() if q.kind in starts}
        return replace(task, job=replace(task.job, given=given))

    def _exchange(self, batches: list[tuple[Runner, list[Request]]]) -> None:
        with contextlib.closing(self.pool.run(batches)) as messages:  # type: ignore[type-var]
            for runner, said in messages:
                if runner is self.reference:
                    self._take_solution(said)
                else:
                    self._take(said, self.states[runner.name])
        self.asked = {}
        if self.wrong:
            raise SpecError(self.wrong)
        for waiting in self.waiting.values():  # for a solution that nobody will give any more
            for runner, task, _ in waiting:
                self._leave_open(runner, [task], self._nothing_to_judge_by())
        self.waiting.clear()

    def _nothing_to_judge_by(self) -> str:
        return f"there is nothing to judge it by: the reference {self.lost}"

    def _leave_open(self, runner: Runner, tasks: Sequence[Task], reason: str) -> None:
        for task in tasks:
            self.report.cells += unavailable(runner.name, task, self.judge, Verdict.INCONCLUSIVE, reason)

    # --- asked beside the plan, once the workers are there

    def evaluate(self, runner: Runner, jobs: Sequence[Job]) -> list[Outputs | None]:
        """Run jobs in a runner; None for those that fail."""
        return [r and r[""] for _, r in self.ask(runner, [self.loose(job, Do.EVALUATE) for job in jobs])]

    def solve(self, jobs: Sequence[Job]) -> list[Solution | None]:
        """Run jobs in the reference."""
        return [r for _, r in self.ask(self.reference, [self.loose(job, Do.SOLVE) for job in jobs], load_solution)]

    def ask(self, runner: Runner, requests: Sequence[Request], read: Any = load) -> list[tuple[Answer | None, Any]]:
        """Return a worker's answers in the order of the requests, each with its tensors; None where none came."""
        answers: list[tuple[Answer | None, Any]] = [(None, None) for _ in requests]
        numbered = [replace(request, id=number) for number, request in enumerate(requests)]
        for _, said in self.pool.run([(runner, numbered)]):
            match said:
                case Computed():
                    try:
                        answers[said.id] = said, read(said, requests[said.id].out)
                    except Malformed as error:
                        self._blame(runner, error)
                case Refused(reason=text) | Raised(text=text) | Unwritten(reason=text):
                    answers[said.id] = said, None
                    self.faults[runner.name] = _last_line(text)
                case Measured():
                    answers[said.id] = said, None
                case Lost():
                    self.faults[runner.name] = f"the worker {said.kind}: {said.detail.splitlines()[0]}"
        return answers

    def _blame(self, runner: Runner, error: Malformed) -> Lost:
        """End a worker whose file is no answer, and note why."""
        lost = self.pool.condemn(runner, f"wrote what is no answer: {error}")
        self.faults[runner.name] = f"the worker {lost.kind}: {lost.detail.splitlines()[0]}"
        return lost

    def loose(self, job: Job, do: Do) -> Request:
        self.files += 1
        path = self.folder / f"loose-{self.files}.safetensors"
        write_arrays(pack_job(job)[1], path)
        return Request(0, do, "", job, path, Path(f"{path}.out"))

    # --- what is asked

    def _request(self, runner: Runner, task: Task, do: Do | None = None) -> Request:
        self.files += 1
        number = self.files  # of no other request in this run: an answer is read from a file of its own
        self.asked[number] = runner, task
        return Request(number, do or task.do, task.check, task.job, self._write(task), self._answer_file(number))

    def _answer_file(self, number: int) -> Path:
        return self.folder / f"answer-{number}.out"

    def _write(self, task: Task) -> Path:
        """Write the arrays of a task, once for all runners."""
        name = f"{task.job.case}.{task.job.dtype}.{task.oracle[2] if task.oracle else ''}.{len(task.job.given)}"
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            write_arrays(pack_job(task.job)[1], path)
        return path

    # --- what comes in

    def _take_solution(self, said: Said | Lost) -> None:
        match said:
            case Greeting(budget=""):
                self._lose_reference(self._blame(self.reference, Malformed("a reference must say its budget")))
            case Greeting():
                if not self.judge.kind:
                    self.judge = Judge(self.checks, said.budget, None)
                self.report.spec |= {"reference": self.reference.adapter.rpartition(":")[2]}
                self.report.spec |= {"budget": self.judge.kind, "c": self.judge.c}
            case WrongAdapter(reason=reason):
                self.wrong = f"the reference crashed: {reason}"
            case Refused(reason=text) | Raised(text=text):
                _, task = self.asked.pop(said.id)
                self.wrong = f"the reference failed on case {task.case}: {_last_line(text)}"
            case Computed():
                _, task = self.asked.pop(said.id)
                try:
                    solution = load_solution(said, self._answer_file(said.id))
                    self._keep_solution(task, solution)
                except Malformed as error:
                    self._lose_reference(self._blame(self.reference, error))
                except SpecError as error:  # it is not finite
                    self.wrong = self.wrong or str(error)
            case Unwritten():
                self._lose_reference(self.pool.condemn(self.reference, said.reason))
            case Lost() if not self.lost and not self.wrong:
                self._lose_reference(said)

    def _keep_solution(self, task: Task, solution: Solution) -> None:
        """Judge by a solution all that waits for it.

        Raises:
            Malformed: If it cannot be one for this task.
            SpecError: If it is not finite where the data are.
        """
        if task.oracle is None:
            return
        if task.do is Do.TRAIN:
            check_trained(task.job, {q: value.shape for q, (value, _) in solution.items()}, reference=True)
        check_finite(task.job, solution)
        self.solutions[task.oracle] = solution
        for runner, waiting, answer in self.waiting.pop(task.oracle, []):
            self._judge(runner, waiting, answer)

    def _lose_reference(self, lost: Lost) -> None:
        """What was judged stands; the report has the reference beside the runners, as what ended."""
        self.lost = f"{lost.kind}: {_last_line(lost.detail)}"
        self.report.runners.append(RunnerState(REFERENCE, lost.kind, lost.detail))

    def _take(self, said: Said | Lost, state: RunnerState) -> None:
        match said:
            case Greeting():
                state.versions = dict(said.versions)
                self.unsupported[state.name] = said.cannot
            case Computed() | Refused() | Raised() | Unwritten():
                runner, task = self.asked.pop(said.id)
                self.done += 1
                if task.oracle is None or task.oracle in self.solutions or not isinstance(said, Computed):
                    self._judge(runner, task, said)
                else:
                    self.waiting.setdefault(task.oracle, []).append((runner, task, said))
            case Lost():
                state.state, state.detail = said.kind, said.detail
        self._tell(state.name)

    def _judge(self, runner: Runner, task: Task, answer: Answer) -> None:
        match answer:
            case Refused(reason=reason):
                self.report.cells += unavailable(runner.name, task, self.judge, Verdict.UNSUPPORTED, reason)
            case Raised(text=text) | Unwritten(reason=text):
                self.report.cells += unavailable(runner.name, task, self.judge, Verdict.ERROR, text)
            case Computed():
                try:
                    self._compare(runner, task, answer)
                except Malformed as error:
                    lost, state = self._blame(runner, error), self.states[runner.name]
                    state.state, state.detail = lost.kind, lost.detail

    def _compare(self, runner: Runner, task: Task, answer: Computed) -> None:
        results = load_outputs(answer, self._answer_file(answer.id))
        solution = self.solutions[task.oracle] if task.oracle else {}
        if task.do is Do.TRAIN:
            check_trained(task.job, {q: tensor.values.shape for q, tensor in results.items()})
        note = answer.note  # whose optimizer, and where it is not the textbook's
        found = self.judge.cells(runner.name, task, results, solution)
        self.report.cells += [replace(cell, reason=note) if note else self._excused(cell) for cell in found]
        if task.do is Do.TRAIN:
            trained = measure_drift(runner.name, task, results, solution, self.judge)
            own = f"{trained.optimizer}, native" if note else trained.optimizer
            self.report.trajectories.append(replace(trained, optimizer=own))

    def _excused(self, cell: Cell) -> Cell:
        """The cell, or what the adapter says that it cannot do: one evaluation serves several checks."""
        reason = unsupported(self.unsupported.get(cell.runner, {}), cell.check, cell.dtype)
        if reason is None:
            return cell
        return replace(cell, judgement=Judgement(Verdict.UNSUPPORTED), budget="", reason=reason)

    def _tell(self, what: str) -> None:
        if self.progress is not None:
            self.progress(what, self.done, self.total)


def _as_question(task: Task) -> Task:
    """The task as the reference gets it: with gradients wherever a check may want them."""
    gradients = task.check != "nonfinite"
    return replace(task, job=replace(task.job, compiled=False, twice=False, gradients=gradients))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


_SOLVE = {Do.EVALUATE: Do.SOLVE, Do.TRAIN: Do.SOLVE_TRAINING}


def processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": f"{platform.machine()}, {processors()} cores",
        "numpy": np.__version__,
    }
