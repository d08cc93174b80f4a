"""From what a worker returned to cells: every tensor that a check compares gets a verdict, or a reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.dtypes import SAFETY
from eca_multi.parity.define.job import AGAIN, ONES, Job, Outputs, Tensor, is_float
from eca_multi.parity.define.spec import Manual
from eca_multi.parity.execute.messages import Malformed, bounded
from eca_multi.parity.execute.tasks import Task

from .cell import Cell
from .compare import Judgement, Verdict, bits_differ, judge
from .drift import Trajectory
from .trajectories import PERTURBED, marks

Solution = Mapping[str, tuple[np.ndarray, np.ndarray]]
TRAINED = ("step", "free")  # what training returns for each weight
SOLVED = ("w", "step", "free", *(f"band{seed}" for seed in range(PERTURBED)))  # and what the reference does


@dataclass(frozen=True)
class Judge:
    """Knows the budget of a specification, and which checks were asked for."""

    checks: tuple[str, ...]
    kind: str  # analytic, stochastic or manual
    manual: Manual | None = None

    @property
    def c(self) -> float:
        return SAFETY[self.kind]

    def budget(self, value: np.ndarray, error: np.ndarray) -> np.ndarray:
        return error if self.manual is None else self.manual.limit(value)

    def cells(self, runner: str, task: Task, results: Outputs, solution: Solution) -> Iterator[Cell]:
        """Judge all that one task compares."""
        if task.do == "roundtrip":
            yield from self._roundtrip(runner, task, results)
        elif task.do == "train":
            yield from self._one_step(runner, task, results, solution)
        else:
            for check, tensor, dtype in self.expected(task):
                yield self._cell(runner, task, check, tensor, results, solution, dtype)
            if task.check == "" and "determinism" in self.checks:
                yield from self._determinism(runner, task, results)

    def expected(self, task: Task) -> Iterator[tuple[str, str, str | None]]:
        """Name each tensor that a task must return, with the check that it belongs to and its dtype."""
        job = task.job
        if task.check == "taps":
            for name in [*job.taps, *(f"d_{name}" for name in job.taps)]:
                yield "taps", name, None
            return
        groups: dict[str, list[tuple[str, str | None]]] = {
            "forward": [(name, job.dtype) for name in job.outputs] + [(f"new_{name}", None) for name in job.state],
            "input_grad": [(f"d{n}{s}", job.dtype) for n, a in job.inputs.items() if is_float(a) for s in ("", ONES)],
            "weight_grad": [(f"d{name}{s}", job.parameters) for name in job.weights for s in ("", ONES)],
        }
        for check, names in groups.items():
            if (task.check or check) in self.checks and (check == "forward" or job.gradients):
                for name, dtype in names:
                    yield task.check or check, name, dtype

    def _cell(
        self,
        runner: str,
        task: Task,
        check: str,
        tensor: str,
        results: Outputs,
        solution: Solution,
        dtype: str | None,
    ) -> Cell:
        job = task.job
        where = runner, job.case, job.dtype, check, tensor
        if tensor not in solution:
            reason = f"the reference gives no {tensor}: it needs gradients, or a TorchAdapter"
            return Cell(*where, Judgement(Verdict.UNSUPPORTED), reason=reason)
        if tensor not in results and check == "taps":
            if any(name in results for name in job.taps):
                return Cell(*where, Judgement(Verdict.MISSING_TAP), reason=f"the adapter has no tap {tensor}")
            return Cell(*where, Judgement(Verdict.UNSUPPORTED), reason="the adapter has no taps")
        if tensor not in results:
            gradients = any(name.startswith("d") and name[1:] in (*job.inputs, *job.weights) for name in results)
            if tensor not in (*job.outputs, *(f"new_{name}" for name in job.state)) and not gradients:
                return Cell(*where, Judgement(Verdict.UNSUPPORTED), reason="the adapter computes no gradients")
            have = bounded(", ".join(results)) or "nothing"
            reason = f"the adapter returned no {tensor}. It returned: {have}."
            return Cell(*where, Judgement(Verdict.ERROR), reason=reason)
        value, error = solution[tensor]
        judgement = judge(results[tensor], value, self.budget(value, error), dtype, self.c)
        return Cell(*where, judgement, self.kind, _reason(judgement))

    def _roundtrip(self, runner: str, task: Task, results: Outputs) -> Iterator[Cell]:
        for name, array in {**task.job.weights, **task.job.state}.items():
            stored = results.get(name, Tensor(np.empty(0, np.float32), ""))
            judgement = bits_differ(Tensor(array, stored.dtype), stored)
            yield Cell(runner, task.case, task.job.dtype, "roundtrip", name, judgement, "bitwise")

    def _determinism(self, runner: str, task: Task, results: Outputs) -> Iterator[Cell]:
        for name in [name for name in results if f"{name}{AGAIN}" in results]:
            judgement = bits_differ(results[name], results[f"{name}{AGAIN}"])
            yield Cell(runner, task.case, task.job.dtype, "determinism", bounded(name), judgement, "bitwise")

    def _one_step(self, runner: str, task: Task, results: Outputs, solution: Solution) -> Iterator[Cell]:
        for name in task.job.weights:
            value, error = solution[f"step.{name}"]
            judgement = judge(results[f"step.{name}"], value, self.budget(value, error), None, self.c)
            where = runner, task.case, task.job.dtype, "trajectory", f"step.{name}"
            yield Cell(*where, judgement, self.kind, _reason(judgement))

    def trajectory(self, runner: str, task: Task, results: Outputs, solution: Solution) -> Trajectory:
        """Measure the drift of a free run at each mark, and its band."""
        job = task.job
        settings: Mapping[str, Any] = job.training or {}
        at = marks(settings["steps"])
        names = list(job.weights)

        def distance(of: Mapping[str, np.ndarray], i: int) -> float:
            return max(float(np.abs(of[n][i] - solution[f"free.{n}"][0][i]).max(initial=0.0)) for n in names)

        def share(name: str, i: int) -> float:
            value, error = (part[i] for part in solution[f"step.{name}"])
            off = np.abs(results[f"step.{name}"].values[i] - value)
            return float((off / (self.c * self.budget(value, error))).max(initial=0.0))

        own = {n: results[f"free.{n}"].values.astype(np.float64) for n in names}
        seeds = [key.split(".")[0] for key in solution if key.startswith("band") and key.endswith(f".{names[0]}")]
        bands = [{n: solution[f"{seed}.{n}"][0] for n in names} for seed in seeds]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # these are pictures, and no verdict
            one_step = [max(share(name, i) for name in names) for i in range(settings["steps"])]
            drift = [distance(own, i) for i in range(len(at))]
        return Trajectory(
            runner,
            job.case,
            job.dtype,
            settings["optimizer"],
            tuple(at),
            tuple(drift),
            tuple(max(distance(band, i) for band in bands) for i in range(len(at))),
            tuple(float(f"{use:.4g}") for use in one_step),
        )


def _reason(judgement: Judgement) -> str:
    is_open = judgement.verdict is Verdict.INCONCLUSIVE
    return f"the budget is infinite or NaN at {list(judgement.index)}: anything would be within it" if is_open else ""


def check_finite(job: Job, solution: Solution) -> None:
    """Refuse a reference that is NaN or infinite for finite data: nothing could be judged by it.

    Raises:
        SpecError: Naming the tensor and the place.
    """
    arrays = [*job.inputs.values(), *job.weights.values(), *job.state.values()]
    if not all(np.isfinite(array).all() for array in arrays if is_float(array)):
        return
    for name, (value, _) in solution.items():
        if not np.isfinite(value).all():
            place = [int(i) for i in np.unravel_index(int(np.argmin(np.isfinite(value))), value.shape)]
            raise SpecError(
                f"the reference must be finite for finite inputs. Received: {name} of case {job.case} in {job.dtype} "
                f"is {value[tuple(place)]} at {place}. Correct the reference or the case's data."
            )


def check_trained(job: Job, shapes: Mapping[str, tuple[int, ...]], prefixes: Sequence[str]) -> None:
    """Refuse what came back from training if it lacks a weight, or a step of one.

    Raises:
        Malformed: Naming the tensor.
    """
    steps = (job.training or {})["steps"]
    for name, weight in job.weights.items():
        for prefix in prefixes:
            expected = (steps if prefix in ("w", "step") else len(marks(steps)), *weight.shape)
            received = shapes.get(f"{prefix}.{name}")
            if received != expected:
                raise Malformed(f"{prefix}.{name} must have the shape {expected}. Received: {received or 'none'}.")


def unavailable(runner: str, task: Task, judge: Judge, verdict: Verdict, reason: str) -> Iterator[Cell]:
    """One cell for each tensor of a task that was not compared."""
    if task.do == "evaluate":
        names = [(check, tensor) for check, tensor, _ in judge.expected(task)]
    else:
        names = [(task.check, name) for name in task.job.weights]
    for check, tensor in names:
        yield Cell(runner, task.job.case, task.job.dtype, check, tensor, Judgement(verdict), reason=reason)
