"""From what a worker returned to cells: every tensor that a check compares gets a verdict, or a reason."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from eca_multi.parity.budget.safety import SAFETY
from eca_multi.parity.define.adapters import unsupported
from eca_multi.parity.define.job import float_inputs
from eca_multi.parity.define.spec import Manual
from eca_multi.parity.define.tensor import Cotangent, Kind, Outputs, Quantity, Solution, Tensor
from eca_multi.parity.execute.messages import Do, Raised, Refused, Unwritten, bounded
from eca_multi.parity.execute.session import Outcome, Results, Unsolved
from eca_multi.parity.execute.tasks import Key, Task

from .cell import Cell
from .compare import Judgement, Verdict, bits_differ, judge
from .layouts import align
from .reach import LEAST, reach, unbounded

Expected: TypeAlias = tuple[str, Quantity, str | None]  # a check, what it compares, and the dtype that it must have
Where: TypeAlias = tuple[str, str, str, str, str]  # runner, case, dtype, check and tensor

_GRADIENTS = (Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT)


@dataclass(frozen=True)
class _Latest:
    """The last tensor of a runner that was judged, and what it was judged by: solution, dtypes, factor, details."""

    key: tuple[Key | None, str | None, str, float, bool]
    values: np.ndarray
    judgement: Judgement

    def has(self, values: np.ndarray) -> bool:
        same = values.dtype == self.values.dtype and values.shape == self.values.shape
        return same and values.tobytes() == self.values.tobytes()


@dataclass(frozen=True)
class Judge:
    """Knows the budget of a specification, which checks were asked for, and whether anybody reads the details."""

    checks: tuple[str, ...]
    kind: str  # analytic, stochastic or manual
    manual: Manual | None = None
    details: bool = True
    _reaches: dict[tuple[Key, Quantity], float | None] = field(default_factory=dict, compare=False, repr=False)
    _latest: dict[tuple[str, Quantity], _Latest] = field(default_factory=dict, compare=False, repr=False)

    @property
    def c(self) -> float:
        return SAFETY[self.kind]

    def budget(self, value: np.ndarray, error: np.ndarray) -> np.ndarray:
        return error if self.manual is None else self.manual.limit(value)

    def outcome(self, runner: str, task: Task, outcome: Outcome, cannot: Mapping[str, str]) -> list[Cell]:
        """Judge whatever came of a task. `cannot` holds the reasons of the runner's adapter, by check or dtype."""
        match outcome:
            case Refused(reason=reason):
                return list(self.without_result(runner, task, Verdict.UNSUPPORTED, reason))
            case Raised(text=reason) | Unwritten(reason=reason):
                return list(self.without_result(runner, task, Verdict.ERROR, reason))
            case Unsolved(reason=reason):
                return list(self.without_result(runner, task, Verdict.INCONCLUSIVE, reason))
            case Results(outputs=outputs, solution=solution, note=note):
                cells = list(self.cells(runner, task, outputs, solution))
                if note:  # whose optimizer trained, and how it differs from the textbook's
                    return [replace(cell, reason=note) for cell in cells]
                return [_excused(cell, cannot) for cell in cells]

    def cells(self, runner: str, task: Task, results: Outputs, solution: Solution) -> Iterator[Cell]:
        if task.do is Do.ROUNDTRIP:
            yield from _roundtrip(runner, task, results)
            return
        aligned = align(task.job, results, solution, self.c)
        judged: dict[Quantity, Cell] = {}
        for check, quantity, dtype in self.expected(task):
            if quantity.name in aligned.unclear and quantity.kind in (Kind.TAP, Kind.TAP_GRADIENT):
                judged[quantity] = self._unclear(runner, task, check, quantity)
                continue
            where = runner, task.job.case, task.job.dtype, check, quantity.label
            judged[quantity] = self._cell(where, task, quantity, dtype, aligned.results, solution)
        yield from (_sighted(cell, judged.get(_other(quantity))) for quantity, cell in judged.items())
        if task.check == "" and "determinism" in self.checks:
            yield from _determinism(runner, task, results)

    def expected(self, task: Task) -> Iterator[Expected]:
        """Name each tensor that a task must return."""
        job = task.job
        if task.do is Do.TRAIN:
            yield from (("trajectory", Quantity(Kind.STEP, name), None) for name in job.weights)
        elif task.do is Do.ROUNDTRIP:
            yield from (("roundtrip", Quantity(Kind.STORED, name), None) for name in (*job.weights, *job.state))
        elif task.check == "taps":
            for kind in (Kind.TAP, Kind.TAP_GRADIENT):
                yield from (("taps", Quantity(kind, name), None) for name in job.taps)
        else:
            groups: dict[str, list[tuple[Quantity, str | None]]] = {
                "forward": [
                    *((Quantity(Kind.OUTPUT, name), job.dtype) for name in job.outputs),
                    *((Quantity(Kind.STATE, name), None) for name in job.state),
                ],
                "input_grad": [(q, job.dtype) for q in _gradients(Kind.INPUT_GRADIENT, float_inputs(job))],
                "weight_grad": [(q, job.parameters) for q in _gradients(Kind.WEIGHT_GRADIENT, job.weights)],
            }
            for check, quantities in groups.items():
                if (task.check or check) in self.checks and (check == "forward" or job.gradients):
                    yield from ((task.check or check, quantity, dtype) for quantity, dtype in quantities)

    def without_result(self, runner: str, task: Task, verdict: Verdict, reason: str) -> Iterator[Cell]:
        """Give a cell without a comparison for each tensor of a task."""
        for check, quantity, _ in self.expected(task):
            yield Cell(runner, task.case, task.job.dtype, check, quantity.label, Judgement(verdict), reason=reason)

    def _unclear(self, runner: str, task: Task, check: str, quantity: Quantity) -> Cell:
        reason = (
            f"the axes of the tap {quantity.name} are in another order, and its shape fits several: give its axes, as "
            f'in Spec(taps={{"{quantity.name}": "N C H W"}})'
        )
        judgement = Judgement(Verdict.INCONCLUSIVE)
        return Cell(runner, task.case, task.job.dtype, check, quantity.label, judgement, reason=reason)

    def _cell(
        self, where: Where, task: Task, quantity: Quantity, dtype: str | None, results: Outputs, solution: Solution
    ) -> Cell:
        if quantity not in solution:
            what = "gradients" if quantity.kind in _GRADIENTS else quantity.label
            reason = f"the reference gives no {what}: it must be a TorchAdapter, or a NumpyAdapter with `gradients`"
            return Cell(*where, Judgement(Verdict.UNSUPPORTED), reason=reason)
        if quantity not in results:
            verdict, reason = _reason_of_absence(quantity, results)
            return Cell(*where, Judgement(verdict), reason=reason)
        value, error = solution[quantity]
        budget = self.budget(value, error)
        judgement = self._judged(where[0], task, quantity, dtype, results[quantity], value, budget)
        reason = _unmeasured(value, budget, judgement) if judgement.verdict is Verdict.INCONCLUSIVE else ""
        return Cell(*where, replace(judgement, reach=self._reach(task, quantity, value, budget)), self.kind, reason)

    def _judged(
        self,
        runner: str,
        task: Task,
        quantity: Quantity,
        dtype: str | None,
        tensor: Tensor,
        value: np.ndarray,
        budget: np.ndarray,
    ) -> Judgement:
        """Judge a tensor. One with the bits of the runner's last one has been: JAX runs one program for two checks."""
        key = task.oracle, dtype, tensor.dtype, self.c, self.details
        latest = self._latest.get((runner, quantity))
        if latest is not None and latest.key == key and latest.has(tensor.values):
            return latest.judgement
        judgement = judge(tensor, value, budget, dtype, self.c, details=self.details)
        if task.oracle is not None:
            self._latest[runner, quantity] = _Latest(key, tensor.values, judgement)
        return judgement

    def _reach(self, task: Task, quantity: Quantity, value: np.ndarray, budget: np.ndarray) -> float | None:
        """Return the reach of a budget, which all runners share: measured once for each solution."""
        key = (task.oracle, quantity) if task.oracle else None
        if key in self._reaches:
            return self._reaches[key]
        with np.errstate(over="ignore", invalid="ignore"):
            limit = self.c * budget
        measured = reach(value, limit, task.job.dtype if self.manual is None else None)
        if key is not None:
            self._reaches[key] = measured
        return measured


def _other(quantity: Quantity) -> Quantity:
    """Return the same gradient under the other cotangent."""
    return replace(quantity, cotangent=Cotangent.DRAWN if quantity.cotangent is Cotangent.ONES else Cotangent.ONES)


def _sighted(cell: Cell, other: Cell | None) -> Cell:
    """Return the cell, or INCONCLUSIVE in its place where its budget would let zeros pass; see reach.py.

    `other` is the cell of the same gradient under the other cotangent.
    """
    own = cell.judgement.reach
    if cell.verdict is not Verdict.WITHIN_BUDGET or own is None or own >= LEAST:
        return cell
    if other is not None and (other.judgement.reach or 0.0) >= LEAST:
        return cell
    size = f"{1 / own:.3g} x the reference" if own else "infinite"
    reason = (
        f"the budget is {size} at the median element, where it may be 1/{LEAST:g}: a wrong result would be within it "
        f"too. Take data at which {cell.tensor} in {cell.dtype} is larger, or better conditioned"
    )
    return replace(cell, judgement=replace(cell.judgement, verdict=Verdict.INCONCLUSIVE), reason=reason)


def _unmeasured(value: np.ndarray, budget: np.ndarray, judgement: Judgement) -> str:
    """Say why elements have no budget."""
    place = list(judgement.index)
    if np.isfinite(budget[judgement.index]):
        number = f"{int(unbounded(value, budget).sum())} of {value.size}"
        return (
            f"a re-run of the reference with rounding noise is not finite at {place}, and at {number} elements in all: "
            "these data are at the edge of what the layer can compute in this dtype"
        )
    return f"the budget is infinite or NaN at {place}: anything would be within it"


def _gradients(kind: Kind, names: Iterable[str]) -> list[Quantity]:
    return [Quantity(kind, name, cotangent) for name in names for cotangent in Cotangent]


def _reason_of_absence(quantity: Quantity, results: Outputs) -> tuple[Verdict, str]:
    """Return the verdict on a tensor that an adapter did not return, and the reason."""
    returned = {other.kind for other in results}
    if quantity.kind in (Kind.TAP, Kind.TAP_GRADIENT):
        if Kind.TAP in returned:
            return Verdict.MISSING_TAP, f"the adapter has no tap {quantity.label}"
        return Verdict.UNSUPPORTED, "the adapter has no taps"
    if quantity.kind in _GRADIENTS and returned.isdisjoint(_GRADIENTS):
        return Verdict.UNSUPPORTED, "the adapter computes no gradients"
    have = bounded(", ".join(other.label for other in results)) or "nothing"
    return Verdict.ERROR, f"the adapter returned no {quantity.label}. It returned: {have}."


def _roundtrip(runner: str, task: Task, results: Outputs) -> Iterator[Cell]:
    for name, array in {**task.job.weights, **task.job.state}.items():
        stored = results.get(Quantity(Kind.STORED, name), Tensor(np.empty(0, np.float32), ""))
        judgement = bits_differ(Tensor(array, stored.dtype), stored)
        yield Cell(runner, task.case, task.job.dtype, "roundtrip", name, judgement, "bitwise")


def _determinism(runner: str, task: Task, results: Outputs) -> Iterator[Cell]:
    for quantity, tensor in results.items():
        again = replace(quantity, repeated=True)
        if not quantity.repeated and again in results:
            judgement = bits_differ(tensor, results[again])
            name = bounded(quantity.label)
            yield Cell(runner, task.case, task.job.dtype, "determinism", name, judgement, "bitwise")


def _excused(cell: Cell, cannot: Mapping[str, str]) -> Cell:
    """Return the cell, or the adapter's reason why it cannot do that check: one evaluation serves several checks."""
    reason = unsupported(cannot, cell.check, cell.dtype)
    if reason is None:
        return cell
    return replace(cell, judgement=Judgement(Verdict.UNSUPPORTED), budget="", reason=reason)
