"""The parity run: the same weights, inputs and cotangents to every runner, and a verdict on each tensor."""

import contextlib
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from .budget import DTYPES, oracle, quantise
from .cases import CASES, CASES_BY_NAME, Case
from .compare import Judgement, Verdict, judge
from .jobs import TENSORS, Tensor
from .pool import Message, run_workers
from .report import Cell, Report, RunnerState
from .runners import Runner, UsageError, find_runners

Progress = Callable[[str, int, int], None]


def run(
    *,
    runners: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    cases: Sequence[str] | None = None,
    require: Sequence[str] = (),
    timeout: float = 180.0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare implementations of ECA with the float64 oracle: output and both gradients.

    Every runner gets a process of its own, the same quantised weights, inputs and cotangents, and is judged by the same
    elementwise error budget (docs/parity.md).

    Args:
        runners: Names out of `RUNNERS`, or "file.py:Class" for an `Adapter` of your own. None takes all.
        dtypes: Out of "float32", "bfloat16", "float16". None takes all.
        cases: Names out of `CASES`. None takes all.
        require: Runners whose absence is a failure. Others that are not installed are only reported.
        timeout: Seconds that a worker may say nothing.
        workers: Processes at a time. None takes the number of processors.
        progress: Called as progress(what, done, total) as results come in.

    Raises:
        UsageError: If a name is unknown, or a number out of range. It is a ValueError.

    Example:
        >>> from eca_multi import parity
        >>> report = parity.run(runners=["torch"], dtypes=["float32"], cases=["offsets"])
        >>> report.raise_for_status()
    """
    chosen = find_runners(runners)
    names = [runner.name for runner in chosen]
    _check_names("dtype", dtypes, list(DTYPES))
    _check_names("case", cases, list(CASES_BY_NAME))
    _check_names("required runner", require, names)
    limit = _processors() if workers is None else workers
    for name, number in (("workers", limit), ("timeout", timeout)):
        if not number > 0:
            raise UsageError(f"{name} must be positive. Received: {name}={number}.")
    states = {runner.name: _state(runner) for runner in chosen}
    available = [runner for runner in chosen if states[runner.name].state == "ran"]
    grid = [
        (case, dtype)
        for dtype in DTYPES
        if dtypes is None or dtype in dtypes
        for case in CASES
        if cases is None or case.name in cases
    ]
    report = Report(list(states.values()), [], tuple(require), _environment())
    with tempfile.TemporaryDirectory(prefix="eca-parity-") as folder:
        session = _Session(Path(folder), grid, available, report, progress)
        slowest_first = sorted(available, key=lambda runner: not runner.compiler)
        messages = run_workers(slowest_first, session.requests, Path(folder), workers=limit, timeout=timeout)
        with contextlib.closing(messages):  # its end is the workers' end, before their folder goes
            for message in messages:
                session.take(message, states[message.runner.name])
    return report


class _Session:
    """The files and oracles of one run, and the judging of what comes in."""

    def __init__(
        self,
        folder: Path,
        grid: list[tuple[Case, str]],
        runners: list[Runner],
        report: Report,
        progress: Progress | None,
    ) -> None:
        self.report = report
        self.progress = progress
        self.done, self.total = 0, len(grid) * len(runners)
        self.oracles: dict[tuple[str, str], dict[str, Any]] = {}
        jobs = [_write_inputs(case, dtype, folder) for case, dtype in grid]
        self.inputs = {(job["case"], job["dtype"]): job for job in jobs}
        self.requests = {
            runner.name: [{**job, "outputs": f"{job['inputs']}.{number}"} for job in jobs]
            for number, runner in enumerate(runners)
        }
        self.missing = {runner.name: set(self.inputs) for runner in runners}
        self._tell("starting")

    def take(self, message: Message, state: RunnerState) -> None:
        if message.kind == "versions":
            state.versions = message.content["versions"]
        elif message.kind == "result":
            self.report.cells += self._judge(state.name, message.content)
            self.done += 1
            self.missing[state.name].discard((message.content["case"], message.content["dtype"]))
        elif message.kind == "done" and self.missing[state.name]:
            missing = sorted(self.missing[state.name])
            state.state, state.detail = "crashed", f"ended without a result for {len(missing)} jobs, {missing[0]} first"
        elif message.kind in ("crashed", "timed out"):
            state.state, state.detail = message.kind, message.detail
        self._tell(state.name)

    def _judge(self, runner: str, result: dict[str, Any]) -> list[Cell]:
        case, dtype = result["case"], result["dtype"]
        if "error" in result:
            failed = Judgement(Verdict.ERROR, np.inf, np.inf)
            return [Cell(runner, case, dtype, tensor, failed, result["error"]) for tensor in TENSORS]
        path = Path(result["outputs"])
        outputs = load_file(path)
        path.unlink()  # the photographs alone are 14 MB for each runner and dtype
        reference = self._oracle(case, dtype)
        cells = []
        for name in TENSORS:
            actual = Tensor(outputs[name], result["dtypes"][name])
            expected, budget = reference[name]
            cells.append(Cell(runner, case, dtype, name, judge(actual, expected, budget, dtype)))
        return cells

    def _oracle(self, case: str, dtype: str) -> dict[str, Any]:
        if (case, dtype) not in self.oracles:
            job = self.inputs[case, dtype]
            arrays = load_file(job["inputs"])
            wide = {k: v if v.dtype == bool else v.astype(np.float64) for k, v in arrays.items()}
            self.oracles[case, dtype] = oracle(wide, job["options"], dtype)
        return self.oracles[case, dtype]

    def _tell(self, what: str) -> None:
        if self.progress is not None:
            self.progress(what, self.done, self.total)


def _write_inputs(case: Case, dtype: str, folder: Path) -> dict[str, Any]:
    """Write a case's arrays, quantised; float32 holds every value of the narrower dtypes exactly."""
    path = folder / f"{case.name}.{dtype}.safetensors"
    arrays = {
        name: array if array.dtype == bool else quantise(array, dtype).astype(np.float32)
        for name, array in case.arrays().items()
    }
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return {
        "case": case.name,
        "dtype": dtype,
        "options": dict(case.options),
        "other_axis": case.other_axis,
        "inputs": str(path),
    }


def _check_names(what: str, names: Sequence[str] | None, known: Sequence[str]) -> None:
    for name in names or ():
        if name not in known:
            raise UsageError(f"{what} must be one of {', '.join(known)}. Received: {name!r}.")


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _state(runner: Runner) -> RunnerState:
    reason = runner.unavailable()
    return RunnerState(runner.name) if reason is None else RunnerState(runner.name, "unavailable", reason)


def _environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": f"{platform.machine()}, {_processors()} cores",
        "numpy": np.__version__,
    }
