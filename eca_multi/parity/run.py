"""The parity run: the same weights, inputs and cotangents to every runner, and a verdict on each tensor."""

import contextlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eca_multi._printable import file_name
from eca_multi._scratch import scratch_folder

from ._axes import SpecError
from .adapters import unsupported
from .budget import DTYPES
from .compare import Judgement, Verdict
from .investigate import investigate, measure_power, take_fingerprint
from .jobs import Job, Outputs, pack_job
from .judging import Judge, Solution, check_finite, unavailable
from .plan import CHECKS, DEFAULT_CHECKS, Task, check_names, tasks
from .pool import Message, Pool
from .report import Cell, Report, RunnerState
from .results import load, solution_of, write_arrays
from .runners import Runner, UsageError, find_runners, reference_of, refuse_in_worker
from .spec import Spec
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
    """Measure how each runner computes here; see `eca_multi.parity.fingerprints`."""
    refuse_in_worker("fingerprints")
    spec, _ = find_spec(spec)
    chosen = find_runners(spec, runners)
    states = {runner.name: state_of(runner) for runner in chosen}
    with (
        scratch_folder("eca-parity") as folder,
        Pool(folder, workers=processors(), timeout=timeout) as pool,
    ):
        available = [runner for runner in chosen if states[runner.name].state == "ran"]
        request = {"id": 0, "do": "fingerprint", "check": ""}
        for message in pool.run([(runner, [request]) for runner in available]):
            state = states[message.runner.name]
            if message.kind == "versions":
                state.versions = message.content["versions"]
            elif message.kind == "result":
                state.fingerprint = message.content.get("fingerprint", {})
                state.detail = message.content.get("error", "")
            elif message.kind != "done":
                state.state, state.detail = message.kind, message.detail
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
        self.waiting: dict[tuple[str, str, str], list[tuple[Runner, Task, dict[str, Any]]]] = {}
        self.asked: dict[int, tuple[Runner, Task]] = {}
        self.unsupported: dict[str, dict[str, str]] = {}
        self.failure = ""  # of the reference
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
        self._exchange([(self.reference, questions), *self._batches(lambda task: task.do != "train")])
        self.plan = [self._with_points(task) if task.do == "train" else task for task in self.plan]
        self._exchange(self._batches(lambda task: task.do == "train"))
        if self.explicit and set(self.checks) == set(CHECKS):
            for runner in self.runners:
                take_fingerprint(self, runner)
        if "power" in self.checks:
            measure_power(self)
        investigate(self, self.bundles)

    def _batches(self, wanted: Callable[[Task], bool]) -> list[tuple[Runner, list[dict[str, Any]]]]:
        return [(r, [self._request(r, task) for task in self._tasks_of(r) if wanted(task)]) for r in self.runners]

    def _tasks_of(self, runner: Runner) -> list[Task]:
        """What a runner is asked: what takes it minutes, only by name."""
        return [task for task in self.plan if self.explicit or task.check not in runner.slow]

    def _with_points(self, task: Task) -> Task:
        """Give a training job the weights and optimizer states from which each step starts."""
        solution = self.solutions[task.oracle] if task.oracle else {}
        given = {name: value.astype(np.float32) for name, (value, _) in solution.items() if name[:2] in ("w.", "s.")}
        return replace(task, job=replace(task.job, given=given))

    def _exchange(self, batches: list[tuple[Runner, list[dict[str, Any]]]]) -> None:
        with contextlib.closing(self.pool.run(batches)) as messages:  # type: ignore[type-var]
            for message in messages:
                if message.runner is self.reference:
                    self._take_solution(message)
                else:
                    self._take(message, self.states[message.runner.name])
        lost = {runner.name: [i for i, (r, _) in self.asked.items() if r is runner] for runner in self.runners}
        for name, numbers in lost.items():
            if numbers and self.states[name].state == "ran" and not self.failure:
                task = self.asked[numbers[0]][1]
                self.states[name].state = "crashed"
                self.states[name].detail = f"ended without a result for {len(numbers)} jobs, {task.key} first"
        self.asked = {}
        if self.failure:
            raise SpecError(self.failure)

    # --- asked beside the plan, once the workers are there

    def evaluate(self, runner: Runner, jobs: Sequence[Job]) -> list[Outputs | None]:
        """Run jobs in a runner; None for those that fail."""
        answers = self.ask(runner, [self.loose(job, "evaluate") for job in jobs])
        return [load(content) if "out" in content else None for content in answers]

    def solve(self, jobs: Sequence[Job]) -> list[Solution | None]:
        """Run jobs in the reference."""
        answers = self.ask(self.reference, [self.loose(job, "solve") for job in jobs])
        return [solution_of(load(content)) if "out" in content else None for content in answers]

    def ask(self, runner: Runner, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return a worker's answers in the order of the requests, empty where none came."""
        answers: list[dict[str, Any]] = [{} for _ in requests]
        numbered = [{**request, "id": number} for number, request in enumerate(requests)]
        for message in self.pool.run([(runner, numbered)]):
            if message.kind == "result":
                answers[message.content["id"]] = message.content
                fault = message.content.get("error") or message.content.get("unsupported")
                if fault:
                    self.faults[runner.name] = fault.strip().splitlines()[-1]
            elif message.kind in ("crashed", "timed out"):
                self.faults[runner.name] = f"the worker {message.kind}: {message.detail.splitlines()[0]}"
        return answers

    def loose(self, job: Job, do: str) -> dict[str, Any]:
        self.files += 1
        plain, arrays = pack_job(job)
        path = self.folder / f"loose-{self.files}.safetensors"
        write_arrays(arrays, path)
        return {"do": do, "job": json.loads(json.dumps(plain)), "inputs": str(path), "out": f"{path}.out", "check": ""}

    # --- what is asked

    def _request(self, runner: Runner, task: Task, do: str = "") -> dict[str, Any]:
        number = len(self.asked)
        self.asked[number] = runner, task
        plain, path = self._write(task)
        out = self.folder / f"{number}-{runner.role}-{file_name(runner.name)}.out"
        check = {"check": task.check}
        return {"id": number, "do": do or task.do, "job": plain, "inputs": str(path), "out": str(out), **check}

    def _write(self, task: Task) -> tuple[dict[str, Any], Path]:
        """Write the arrays of a task, once for all runners."""
        plain, arrays = pack_job(task.job)
        name = f"{task.job.case}.{task.job.dtype}.{task.oracle[2] if task.oracle else ''}.{len(task.job.given)}"
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            write_arrays(arrays, path)
        return json.loads(json.dumps(plain)), path

    # --- what comes in

    def _take_solution(self, message: Message) -> None:
        if message.kind == "result":
            content = message.content
            _, task = self.asked.pop(content["id"])
            if "out" not in content:
                text = content.get("error") or content.get("unsupported") or ""
                self.failure = f"the reference failed on case {task.case}: {text.strip().splitlines()[-1]}"
                return
            results = load(content)
            solution = solution_of(results)
            key = task.oracle
            if key is None:
                return
            try:
                check_finite(task.job, solution)
            except SpecError as error:
                self.failure = self.failure or str(error)
            self.solutions[key] = solution
            for runner, waiting, content in self.waiting.pop(key, []):
                self._judge(runner, waiting, content)
        elif message.kind == "versions":
            kind = message.content.get("budget", "stochastic")
            if not self.judge.kind:
                self.judge = Judge(self.checks, kind, None)
            self.report.spec |= {"reference": self.reference.adapter.rpartition(":")[2]}
            self.report.spec |= {"budget": self.judge.kind, "c": self.judge.c}
        elif message.kind in ("crashed", "timed out"):
            self.failure = self.failure or f"the reference {message.kind}: {message.detail.strip().splitlines()[-1]}"

    def _take(self, message: Message, state: RunnerState) -> None:
        if message.kind == "versions":
            state.versions = message.content["versions"]
            self.unsupported[state.name] = message.content.get("cannot", {})
        elif message.kind == "result":
            runner, task = self.asked.pop(message.content["id"])
            self.done += 1
            if task.oracle is None or task.oracle in self.solutions or "out" not in message.content:
                self._judge(runner, task, message.content)
            else:
                self.waiting.setdefault(task.oracle, []).append((runner, task, message.content))
        elif message.kind in ("crashed", "timed out"):
            state.state, state.detail = message.kind, message.detail
        self._tell(state.name)

    def _judge(self, runner: Runner, task: Task, content: dict[str, Any]) -> None:
        cells = self.report.cells
        if "unsupported" in content:
            cells += unavailable(runner.name, task, self.judge, Verdict.UNSUPPORTED, content["unsupported"])
            return
        if "error" in content:
            cells += unavailable(runner.name, task, self.judge, Verdict.ERROR, content["error"])
            return
        results = load(content)
        solution = self.solutions[task.oracle] if task.oracle else {}
        note = content.get("note", "")  # whose optimizer, and where it is not the textbook's
        found = self.judge.cells(runner.name, task, results, solution)
        cells += [replace(cell, reason=note) if note else self._excused(cell) for cell in found]
        if task.do == "train":
            trained = self.judge.trajectory(runner.name, task, results, solution)
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


_SOLVE = {"evaluate": "solve", "train": "train"}


def processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def state_of(runner: Runner) -> RunnerState:
    reason = runner.unavailable()
    return RunnerState(runner.name) if reason is None else RunnerState(runner.name, "unavailable", reason)


def environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": f"{platform.machine()}, {processors()} cores",
        "numpy": np.__version__,
    }
