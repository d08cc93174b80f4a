"""Two models of a caller in one dtype: both run on the same data, and what the port returns is judged."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eca_multi.parity.budget.of_models import rounded_model, solve
from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.job import Job, float_inputs
from eca_multi.parity.define.maps import WeightMap
from eca_multi.parity.define.structures import flatten, restore
from eca_multi.parity.define.tensor import Kind, Outputs, Quantity, Solution, Tensor
from eca_multi.parity.execute.messages import Do
from eca_multi.parity.execute.tasks import Task, rounded
from eca_multi.parity.models import Model
from eca_multi.parity.models.alike import run_of
from eca_multi.parity.models.layouts import Layouts
from eca_multi.parity.models.orders import find_layouts

from .blame import Place, Witnesses, blamed, excusable, place
from .cell import Cell
from .states import compare_states
from .verdicts import Expected, Judge

PORT, CASE = "port", "inputs"  # the runner and the case of a comparison of two models
KIND = "stochastic"


@dataclass(frozen=True)
class Side:
    """A model with the inputs and cotangents that it takes."""

    model: Model
    inputs: Any
    cotangents: Mapping[str, np.ndarray] | None


@dataclass(frozen=True)
class Compared:
    """What came of two models in one dtype."""

    dtype: str
    reference: Side
    port: Side
    layouts: Layouts
    task: Task
    solution: Solution
    cells: list[Cell]
    uncompared: tuple[str, ...] = ()  # states that a call changed, and that no map pairs

    @property
    def nonfinite(self) -> dict[str, str]:
        """How many values of the reference are NaN or infinite, by the tensor; without tensors that have none."""
        counts = {quantity.label: (~np.isfinite(held[0])).sum() for quantity, held in self.solution.items()}
        sizes = {quantity.label: held[0].size for quantity, held in self.solution.items()}
        return {name: f"{number} of {sizes[name]}" for name, number in counts.items() if number}

    def own_cells(self) -> dict[Place, Cell]:
        """Judge the reference's own run in this dtype, by the framework that it is written in."""
        run = self.reference.model.run(self.reference.inputs, self.dtype, self.reference.cotangents)
        states = {**self.task.job.state, **run.states}
        results = _named(run.outputs, run.input_gradients, run.weight_gradients, states)
        return {place(cell): cell for cell in _JUDGE.cells(PORT, self.task, results, self.solution)}


@dataclass(frozen=True)
class PortJudge(Judge):
    """Judges what a port returns: gradients of one cotangent, and those of the weights that both train."""

    def expected(self, task: Task) -> Iterator[Expected]:
        job = task.job
        yield from (("forward", Quantity(Kind.OUTPUT, name), job.dtype) for name in job.outputs)
        yield from (("forward", Quantity(Kind.STATE, name), None) for name in job.state)
        if job.gradients:
            yield from (("input_grad", Quantity(Kind.INPUT_GRADIENT, n), job.dtype) for n in float_inputs(job))
            yield from (("weight_grad", Quantity(Kind.WEIGHT_GRADIENT, n), job.dtype) for n in job.weights)


_JUDGE = PortJudge(BASE, KIND)


def compare(
    ours: Model,
    theirs: Model,
    inputs: Any,
    dtype: str,
    layouts: str | Mapping[str, str] | None,
    gradients: bool,
    weights: WeightMap | None,
) -> Compared:
    """Run both models, and judge the port's results in the names and axis orders of the reference."""
    ours = rounded_model(ours, dtype)
    arrays = rounded(flatten("x", inputs), dtype)
    outputs = run_of("the reference", ours, restore("x", inputs, arrays), "float64").outputs
    _check_finite(arrays, outputs)
    found = find_layouts(theirs, inputs, arrays, outputs, dtype, layouts)
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=value.shape) for name, value in outputs.items() if value.dtype.kind == "f"}
    cotangents = rounded(drawn, dtype) if gradients and ours.differentiable and theirs.differentiable else None
    mine = Side(ours, restore("x", inputs, arrays), cotangents)
    solution = solve(ours, mine.inputs, dtype, cotangents)
    moved = {name: found.to_port(name, array) for name, array in arrays.items()}
    turned = None
    if cotangents is not None:
        turned = {found.names[name]: found.to_port(name, array) for name, array in cotangents.items()}
    yours = Side(theirs, restore("x", inputs, moved), turned)
    run = run_of("the port", theirs, yours.inputs, dtype, turned)
    held: dict[str, np.ndarray] = {}
    if weights is not None and cotangents is not None:
        held = weights.to_canonical(run.weight_gradients, gradients=True)
    trained = {n: a for n, a in ours.weights().items() if n in held and n in ours.trained()}
    states = compare_states(ours, theirs, solution, run.states, weights, dtype)
    results = _named(
        {n: found.to_reference(n, run.outputs[found.names[n]]) for n in outputs},
        {n: found.to_reference(n, g) for n, g in run.input_gradients.items()},
        {n: held[n] for n in trained},
        states.results,
    )
    job = Job(
        CASE,
        dtype,
        {},
        {},
        tuple(outputs),
        gradients=cotangents is not None,
        inputs=arrays,
        weights=trained,
        state=states.before,
    )
    task = Task("", Do.EVALUATE, CASE, job, None)
    solution = {**solution, **states.kept}
    cells = list(_JUDGE.cells(PORT, task, results, solution))
    return Compared(dtype, mine, yours, found, task, solution, cells, states.uncompared)


def with_blame(compared: list[Compared], operation: Any, fingerprint: Any) -> list[Cell]:
    """Return all cells, each red one with whose fault it is: the port's, or its framework's in half precision.

    Args:
        compared: One for each dtype; without float32 among them nothing is excused.
        operation: Name of a weight of the reference -> the operation that reads it, "" for an unknown one.
        fingerprint: Called without arguments; measures how the port's framework computes.
    """
    cells = [cell for item in compared for cell in item.cells]
    if not (candidates := {cell.dtype for cell in excusable(cells)}):
        return cells
    own = [item.own_cells() for item in compared if item.dtype in candidates]
    base = {side: _base(getattr(compared[0], side).model.framework) for side in ("reference", "port")}
    names = {f"d{name}": array.ndim for item in compared for name, array in item.task.job.weights.items()}
    witnesses = Witnesses(
        _JUDGE.c,
        {PORT: base["port"]},
        {where: cell for group in own for where, cell in group.items()} if base["reference"] != base["port"] else {},
        base["reference"],
        {place(cell): names[cell.tensor] for cell in cells if cell.tensor in names},
        lambda where: str(operation(where[-1].removeprefix("d"))) if where[-1] in names else "",
        lambda runner: dict(fingerprint()),
    )
    return blamed(cells, witnesses)


def _base(framework: str) -> str:
    """Return the framework that computes: "jax" for nnx, "torch" for keras-torch."""
    return "jax" if framework in ("nnx", "linen") else framework.removeprefix("keras-")


def _named(
    outputs: Mapping[str, np.ndarray],
    of_inputs: Mapping[str, np.ndarray],
    of_weights: Mapping[str, np.ndarray],
    states: Mapping[str, np.ndarray],
) -> Outputs:
    named = {Quantity(Kind.OUTPUT, name): array for name, array in outputs.items()}
    named |= {Quantity(Kind.INPUT_GRADIENT, name): array for name, array in of_inputs.items()}
    named |= {Quantity(Kind.WEIGHT_GRADIENT, name): array for name, array in of_weights.items()}
    named |= {Quantity(Kind.STATE, name): array for name, array in states.items()}
    return {quantity: Tensor(array, array.dtype.name) for quantity, array in named.items()}


def _check_finite(inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
    floats = {name: value for name, value in outputs.items() if value.dtype.kind == "f"}
    if empty := [name for name, value in floats.items() if value.size and not np.isfinite(value).any()]:
        raise SpecError(
            f"the reference must have a finite value in each output, else any port agrees. Received: none in "
            f"{empty[0]}. Give inputs without NaN and infinity."
        )
    wrong = [name for name, value in floats.items() if not np.isfinite(value).all()]
    if wrong and all(np.isfinite(array).all() for array in inputs.values() if array.dtype.kind == "f"):
        raise SpecError(f"the reference must be finite for finite inputs. Received: {wrong[0]} with NaN or infinity.")
