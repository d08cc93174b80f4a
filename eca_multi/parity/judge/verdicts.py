"""From what a worker returned to cells: every tensor that a check compares gets a verdict, or a reason."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.dtypes import SAFETY
from eca_multi.parity.define.job import Job, float_inputs, is_float
from eca_multi.parity.define.spec import Manual
from eca_multi.parity.define.tensor import Cotangent, Kind, Outputs, Quantity, Solution, Tensor
from eca_multi.parity.execute.messages import Do, bounded
from eca_multi.parity.execute.tasks import Task

from .cell import Cell
from .compare import Judgement, Verdict, bits_differ, judge


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
        if task.do is Do.ROUNDTRIP:
            yield from self._roundtrip(runner, task, results)
        elif task.do is Do.TRAIN:
            yield from self._one_step(runner, task, results, solution)
        else:
            for check, tensor, dtype in self.expected(task):
                yield self._cell(runner, task, check, tensor, results, solution, dtype)
            if task.check == "" and "determinism" in self.checks:
                yield from self._determinism(runner, task, results)

    def expected(self, task: Task) -> Iterator[tuple[str, Quantity, str | None]]:
        """Name each tensor that a task must return, with the check that it belongs to and its dtype."""
        job = task.job
        if task.check == "taps":
            for kind in (Kind.TAP, Kind.TAP_GRADIENT):
                yield from (("taps", Quantity(kind, name), None) for name in job.taps)
            return
        inputs, weights = (
            [Quantity(kind, name, cotangent) for name in names for cotangent in Cotangent]
            for kind, names in ((Kind.INPUT_GRADIENT, float_inputs(job)), (Kind.WEIGHT_GRADIENT, list(job.weights)))
        )
        outputs = [(Quantity(Kind.OUTPUT, name), job.dtype) for name in job.outputs]
        groups: dict[str, list[tuple[Quantity, str | None]]] = {
            "forward": [*outputs, *((Quantity(Kind.STATE, name), None) for name in job.state)],
            "input_grad": [(quantity, job.dtype) for quantity in inputs],
            "weight_grad": [(quantity, job.parameters) for quantity in weights],
        }
        for check, quantities in groups.items():
            if (task.check or check) in self.checks and (check == "forward" or job.gradients):
                for quantity, dtype in quantities:
                    yield task.check or check, quantity, dtype

    def _cell(
        self,
        runner: str,
        task: Task,
        check: str,
        tensor: Quantity,
        results: Outputs,
        solution: Solution,
        dtype: str | None,
    ) -> Cell:
        job = task.job
        where = runner, job.case, job.dtype, check, tensor.label
        if tensor not in solution:
            reason = f"the reference gives no {tensor}: it needs gradients, or a TorchAdapter"
            return Cell(*where, Judgement(Verdict.UNSUPPORTED), reason=reason)
        if tensor not in results and check == "taps":
            if any(quantity.kind is Kind.TAP for quantity in results):
                return Cell(*where, Judgement(Verdict.MISSING_TAP), reason=f"the adapter has no tap {tensor}")
            return Cell(*where, Judgement(Verdict.UNSUPPORTED), reason="the adapter has no taps")
        if tensor not in results:
            has_gradients = any(q.kind in (Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT) for q in results)
            if tensor.kind not in (Kind.OUTPUT, Kind.STATE) and not has_gradients:
                return Cell(*where, Judgement(Verdict.UNSUPPORTED), reason="the adapter computes no gradients")
            have = bounded(", ".join(map(str, results))) or "nothing"
            reason = f"the adapter returned no {tensor}. It returned: {have}."
            return Cell(*where, Judgement(Verdict.ERROR), reason=reason)
        value, error = solution[tensor]
        judgement = judge(results[tensor], value, self.budget(value, error), dtype, self.c)
        return Cell(*where, judgement, self.kind, _reason(judgement))

    def _roundtrip(self, runner: str, task: Task, results: Outputs) -> Iterator[Cell]:
        for name, array in {**task.job.weights, **task.job.state}.items():
            stored = results.get(Quantity(Kind.STORED, name), Tensor(np.empty(0, np.float32), ""))
            judgement = bits_differ(Tensor(array, stored.dtype), stored)
            yield Cell(runner, task.case, task.job.dtype, "roundtrip", name, judgement, "bitwise")

    def _determinism(self, runner: str, task: Task, results: Outputs) -> Iterator[Cell]:
        for quantity, tensor in results.items():
            again = results.get(replace(quantity, repeated=True))
            if again is not None and not quantity.repeated:
                judgement = bits_differ(tensor, again)
                label = bounded(quantity)
                yield Cell(runner, task.case, task.job.dtype, "determinism", label, judgement, "bitwise")

    def _one_step(self, runner: str, task: Task, results: Outputs, solution: Solution) -> Iterator[Cell]:
        for name in task.job.weights:
            step = Quantity(Kind.STEP, name)
            value, error = solution[step]
            judgement = judge(results[step], value, self.budget(value, error), None, self.c)
            where = runner, task.case, task.job.dtype, "trajectory", step.label
            yield Cell(*where, judgement, self.kind, _reason(judgement))


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


def unavailable(runner: str, task: Task, judge: Judge, verdict: Verdict, reason: str) -> Iterator[Cell]:
    """One cell for each tensor of a task that was not compared."""
    if task.do is Do.EVALUATE:
        names = [(check, quantity.label) for check, quantity, _ in judge.expected(task)]
    else:
        names = [(task.check, name) for name in task.job.weights]
    for check, tensor in names:
        yield Cell(runner, task.job.case, task.job.dtype, check, tensor, Judgement(verdict), reason=reason)
