"""The verb for two models that exist: a port against its reference, in this process, each with the weights it has."""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .budget.of_models import rounded_model, solve
from .define.axes import SpecError
from .define.checks import BASE
from .define.dtypes import DTYPES
from .define.job import Job, float_inputs
from .define.loading import load_object
from .define.maps import WeightMap
from .define.structures import flatten, restore
from .define.tensor import Kind, Outputs, Quantity, Solution, Tensor
from .execute.messages import Do
from .execute.state import RunnerState
from .execute.tasks import Task, rounded
from .explain.investigate import with_causes
from .explain.submodules import CASE, PORT, Side, localise
from .judge.verdicts import Expected, Judge
from .models import Model, model_of
from .models.alike import check_alike, run_of
from .models.elsewhere import Elsewhere
from .models.layouts import Layouts
from .models.mapping import map_of, unlike
from .models.orders import find_layouts
from .report.assemble import environment
from .report.report import ParityError, Report, describe
from .report.terminal import summary

KIND = "stochastic"


class Ported(Report):
    """The report of `assert_ported`, which a notebook shows as the table."""

    def __str__(self) -> str:
        return summary(self, width=100, colour=False)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))  # the way of IPython, which no other method of a class answers


def assert_ported(
    reference: Any,
    port: Any,
    inputs: Any,
    *,
    map: WeightMap | Mapping[str, str | None] | None = None,  # the public name, as in propose_map and port_weights
    layouts: str | Mapping[str, str] | None = None,
    dtypes: Sequence[str] = ("float32",),
    gradients: bool = True,
) -> Report:
    """Compare a port with its reference, each with the weights that it has: outputs and gradients.

    Both run in this process, on copies. The reference runs in float64 too, again and again with rounding noise; how far
    that carries each element, times 4, is what a port may be off. On failure both run again with all submodules
    recorded, and the first submodule that goes wrong by itself is named.

    Args:
        reference: A torch nn.Module, or a Keras model on the torch backend; JAX, nnx and linen where the budget of JAX
            is installed; or (function, parameters) of torch or NumPy.
        port: A torch nn.Module, a Keras layer or model, an nnx module, a linen (module, variables), or
            (function, parameters), called as function(parameters, *inputs).
        inputs: An array, or a tuple of arguments or dict of keywords, in the reference's axis order. Floats are rounded
            to the dtype.
        map: The port's weights by the reference's, as `propose_map` prints; then weight gradients are compared too.
        layouts: "N C H W -> N H W C" for all tensors of as many axes, or such a text for each input ("x", "x0", a key)
            and output ("y", "y0", a key). None finds the orders from shapes and by trying.
        dtypes: Of "float32", "bfloat16", "float16".
        gradients: Whether to compare gradients.

    Returns:
        The report; a notebook shows its table.

    Raises:
        ParityError: Naming who is off and by how much, the submodule by its path in the reference, and the cause where
            one is found. It is an AssertionError.
        SpecError: If the two cannot be compared: modes, devices or dtypes differ, a model raises or writes into its
            inputs, or no order of axes fits.

    Example:
        >>> import jax.numpy as jnp, numpy as np, torch
        >>> from eca_multi import parity
        >>> layer = torch.nn.Linear(4, 3)
        >>> kernel, bias = (jnp.asarray(p.detach().numpy().T) for p in layer.parameters())
        >>> port = (lambda p, x: x @ p["kernel"] + p["bias"], {"kernel": kernel, "bias": bias})
        >>> report = parity.assert_ported(layer, port, np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4))
    """
    report = compare_models(reference, port, inputs, map=map, layouts=layouts, dtypes=dtypes, gradients=gradients)
    raise_for_port(report)
    return report


def raise_for_port(report: Report, name: str = PORT) -> None:
    """Raise ParityError where the port disagrees, and SpecError where a tensor could not be judged."""
    lines = [describe(replace(cell, runner=name)) for cell in report.failures]
    if report.disagreements:
        raise ParityError("\n".join([*lines, *(f"{name}: {item.line}" for item in report.localisations)]))
    if lines:
        raise SpecError("\n".join([*lines, "Take inputs at which the reference is well conditioned."]))


def compare_models(
    reference: Any,
    port: Any,
    inputs: Any,
    *,
    map: WeightMap | Mapping[str, str | None] | None = None,  # as in assert_ported
    layouts: str | Mapping[str, str] | None = None,
    dtypes: Sequence[str] = ("float32",),
    gradients: bool = True,
) -> Report:
    """Do the work of `assert_ported`, and return the report of a failure too."""
    if unknown := [dtype for dtype in dtypes if dtype not in DTYPES]:
        raise SpecError(f"dtypes must be of {', '.join(DTYPES)}. Received: {unknown[0]!r}.")
    ours, theirs = model_of(reference), model_of(port)
    check_alike(ours, theirs)
    judge = _PortJudge(BASE, KIND)
    about = {"name": f"{ours.name} -> {theirs.name}", "reference": ours.name, "budget": KIND, "c": judge.c}
    case = {"name": CASE, "why": "the inputs of the caller"}
    report = Ported([RunnerState(PORT)], environment=environment(), spec=about, cases=(case,))
    weights = map if map is None or isinstance(map, WeightMap) else map_of(ours, theirs, map)
    for dtype in dtypes:
        task, results, solution, sides, layouts_found = _run(ours, theirs, inputs, dtype, layouts, gradients, weights)
        cells = list(judge.cells(PORT, task, results, solution))
        report.cells += cells
        if any(cell.verdict.disagrees for cell in cells):
            place = localise(*sides, dtype, layouts_found)
            copied = unlike(ours, theirs, weights) if weights is not None else ""
            report.localisations.append(replace(place, line=f"{copied}\n{place.line}") if copied else place)
        report.spec["layout"] = str(layouts_found)
    report.cells = with_causes(report.cells, report.localisations)
    report.finish()
    return report


def compare_sources(
    reference: str,
    port: str,
    inputs: str | os.PathLike[str],
    *,
    map: str | None = None,
    layouts: str | None = None,
    dtypes: Sequence[str] = ("float32",),
) -> Report:
    """Compare two models by name, each in a process of its own, on the arrays of a file: `eca-multi parity port`.

    Args:
        reference, port: "module:factory" or "file.py:factory": a function that makes the model, or the model.
        inputs: An .npz file. One array, or arrays without names, are the arguments in order; others are keywords.
        map: "module:name" or "file.py:name" of the map, or a .json file with the map.
        layouts, dtypes: As for `assert_ported`.

    Raises:
        SpecError: As `assert_ported`, or if a name or a file cannot be read.
    """
    arrays, entries = _read_inputs(inputs), _read_map(map)
    with Elsewhere("the reference", reference) as ours, Elsewhere("the port", port) as theirs:
        report = compare_models(ours, theirs, arrays, map=entries, layouts=layouts, dtypes=dtypes)
    return report


def _read_inputs(path: str | os.PathLike[str]) -> Any:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file) if isinstance(file, np.lib.npyio.NpzFile) else {"": file}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise SpecError(f"the inputs must be an .npz file of arrays. Received: {path}: {error}") from error
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    return tuple(arrays.values()) if all(name.startswith("arr_") for name in arrays) else arrays


def _read_map(source: str | None) -> Mapping[str, str | None] | None:
    if source is None or not source.endswith(".json"):
        return None if source is None else load_object(source)  # type: ignore[no-any-return]  # of the caller's file
    try:
        entries: Mapping[str, str | None] = json.loads(Path(source).read_bytes())
    except (OSError, ValueError) as error:
        raise SpecError(f"the map must be a JSON object. Received: {source}: {error}") from error
    return entries


@dataclass(frozen=True)
class _PortJudge(Judge):
    """Judges what a port returns: gradients of one cotangent, and those of the weights that both train."""

    def expected(self, task: Task) -> Iterator[Expected]:
        job = task.job
        yield from (("forward", Quantity(Kind.OUTPUT, name), job.dtype) for name in job.outputs)
        if job.gradients:
            yield from (("input_grad", Quantity(Kind.INPUT_GRADIENT, n), job.dtype) for n in float_inputs(job))
            yield from (("weight_grad", Quantity(Kind.WEIGHT_GRADIENT, n), job.dtype) for n in job.weights)


def _run(
    ours: Model,
    theirs: Model,
    inputs: Any,
    dtype: str,
    layouts: str | Mapping[str, str] | None,
    gradients: bool,
    weights: WeightMap | None,
) -> tuple[Task, Outputs, Solution, tuple[Side, Side], Layouts]:
    """Run both, and return the port's results in the names and axis orders of the reference."""
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
    results = {Quantity(Kind.OUTPUT, n): found.to_reference(n, run.outputs[found.names[n]]) for n in outputs}
    results |= {Quantity(Kind.INPUT_GRADIENT, n): found.to_reference(n, g) for n, g in run.input_gradients.items()}
    trained: dict[str, np.ndarray] = {}
    if weights is not None and cotangents is not None:
        found_gradients = weights.to_canonical(run.weight_gradients, gradients=True)
        trained = {n: a for n, a in ours.weights().items() if n in found_gradients and n in ours.trained()}
        results |= {Quantity(Kind.WEIGHT_GRADIENT, n): found_gradients[n] for n in trained}
    job = Job(CASE, dtype, {}, {}, tuple(outputs), gradients=cotangents is not None, inputs=arrays, weights=trained)
    task = Task("", Do.EVALUATE, CASE, job, None)
    named = {quantity: Tensor(array, array.dtype.name) for quantity, array in results.items()}
    return task, named, solution, (mine, yours), found


def _check_finite(inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
    wrong = [name for name, value in outputs.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
    if wrong and all(np.isfinite(array).all() for array in inputs.values() if array.dtype.kind == "f"):
        raise SpecError(f"the reference must be finite for finite inputs. Received: {wrong[0]} with NaN or infinity.")
