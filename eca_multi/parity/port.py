"""The verb for two models that exist: a port against its reference, in this process, each with the weights it has."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from .budget.safety import SAFETY
from .define.axes import SpecError
from .define.dtypes import DTYPES
from .define.loading import load_object
from .define.maps import WeightMap
from .execute.state import RunnerState
from .explain.backward import Wrong
from .explain.fingerprints import measure
from .explain.investigate import with_causes
from .explain.localize import Localisation
from .explain.submodules import localise
from .judge.cell import Cell
from .judge.ported import CASE, KIND, PORT, Compared, compare, with_blame
from .models import Model, model_of
from .models.alike import check_alike, in_one_mode
from .models.elsewhere import Elsewhere
from .models.inputs import read_inputs
from .models.mapping import map_of, unlike
from .report.assemble import environment
from .report.report import ParityError, Report
from .report.view import View
from .report.view.causes import Cause
from .report.view.results import Result, worst_first

STATES_ALONE = (
    "all but the states after the call agrees: compare the momentum (in torch the share of the new value, in Keras and "
    "Flax that of the old one) and the variance (torch keeps the unbiased one: 'load only' in the map leaves it out)"
)
_GRADIENTS = ("input_grad", "weight_grad")
_SHOWN = 5  # names in one line
_PROBES = {"torch": "torch", "jax": "jax", "nnx": "jax", "linen": "jax", "numpy": "numpy"}


class Ported(Report):
    """The report of `assert_ported`, which a notebook shows as the table."""

    def __str__(self) -> str:
        # By name, on use: the packages that the terminal needs change the state of Python's random numbers.
        terminal = import_module("eca_multi.parity.report.terminal")
        return str(terminal.summary(self, width=100, colour=False))

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
    training: bool | None = None,
) -> Report:
    """Compare a port with its reference, each with the weights that it has: outputs, gradients and states.

    Both run in this process, on copies. The reference runs in float64 too, again and again with rounding noise; how far
    that carries each element, times 4, is what a port may be off. On failure both run again with all submodules
    recorded, and the first submodule that goes wrong by itself is named.

    Args:
        reference, port: A torch nn.Module, a Keras layer or model, an nnx module, a linen (module, variables), or
            (function, parameters) of torch, JAX or NumPy, called as function(parameters, *inputs).
        inputs: An array, or a tuple of arguments or dict of keywords, in the reference's axis order. Floats are rounded
            to the dtype.
        map: The port's weights by the reference's, as `propose_map` prints; then weight gradients, and states that the
            call changes in training mode, are compared too.
        layouts: "N C H W -> N H W C" for all tensors of as many axes, or such a text for each input ("x", "x0", a key)
            and output ("y", "y0", a key). None finds the orders from shapes and by trying.
        dtypes: Of "float32", "bfloat16", "float16".
        gradients: Whether to compare gradients.
        training: True calls both as in training (a linen module or function by its argument train, training,
            is_training, deterministic or use_running_average), False as in inference. None leaves each as it is: torch
            and nnx modules in their mode, Keras in inference, others as the keywords of their tuple say.

    Returns:
        The report; a notebook shows its table.

    Raises:
        ParityError: For each cause the submodule by its path in the reference, and the cause where one is found; then
            by how much the worst tensor is off, and which others. It is an AssertionError.
        SpecError: If an output cannot be judged, or the two cannot be compared: modes, devices or dtypes differ, a
            model raises or writes into its inputs, or no order of axes fits.

    Example:
        >>> import jax.numpy as jnp, numpy as np, torch
        >>> from eca_multi import parity
        >>> layer = torch.nn.Linear(4, 3)
        >>> kernel, bias = (jnp.asarray(p.detach().numpy().T) for p in layer.parameters())
        >>> port = (lambda p, x: x @ p["kernel"] + p["bias"], {"kernel": kernel, "bias": bias})
        >>> report = parity.assert_ported(layer, port, np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4))
    """
    __tracebackhide__ = True  # pytest then shows the caller's line
    options: dict[str, Any] = {"map": map, "layouts": layouts, "gradients": gradients, "training": training}
    report = compare_models(reference, port, inputs, dtypes=dtypes, **options)
    raise_for_port(report)
    return report


def raise_for_port(report: Report, name: str = PORT) -> None:
    """Raise ParityError where the port disagrees, and SpecError where an output could not be judged.

    A gradient that could not be judged is no fault: its budget is too large to see one, and a warning names it. Another
    warning names the states that the call changed and that were not compared.
    """
    __tracebackhide__ = True
    results = [replace(result, runner=name) for result in View(report.to_dict()).results]
    if report.disagreements:
        red = [result for result in results if result.fails and not result.is_without_result]
        raise ParityError("\n".join(line for found in _by_place(report) for line in _said(found, red, name)))
    open_ = [result for result in results if result.is_open]
    lines = [Cause(name, "", tuple(group)).line for group in (_of(open_, [dtype]) for dtype in DTYPES) if group]
    if any(cell.check == "forward" for cell in report.failures):
        raise SpecError("\n".join([*lines, "Take inputs at which the reference is well conditioned."]))
    if lines:
        warnings.warn("\n".join(["These gradients could not be judged:", *lines]), stacklevel=3)
    for state in report.runners:
        if state.detail:
            warnings.warn(state.detail, stacklevel=3)


def _by_place(report: Report) -> list[list[Localisation]]:
    """Group the localisations of several dtypes by where the fault begins: one place is one cause."""
    groups: dict[str, list[Localisation]] = {}
    for item in report.localisations:
        groups.setdefault(item.culprit or item.line, []).append(item)
    return list(groups.values())


def _said(found: Sequence[Localisation], red: Sequence[Result], name: str) -> Iterator[str]:
    """Say one cause in two lines: where it begins and what it is, and by how much the worst tensor is off."""
    first, dtypes = found[0], [item.dtype for item in found]
    yield f"{name} {', '.join(dtypes)}: {first.line}"
    worst, *others = sorted(_of(red, dtypes), key=lambda result: result.check != "forward")  # outputs say most
    said = replace(worst, cause="") if worst.cause and worst.cause in first.line else worst
    yield Cause(name, "", (said, *others)).line


def _of(results: Sequence[Result], dtypes: Sequence[str]) -> list[Result]:
    return worst_first(result for result in results if result.dtype in dtypes)


def compare_models(
    reference: Any,
    port: Any,
    inputs: Any,
    *,
    map: WeightMap | Mapping[str, str | None] | None = None,  # as in assert_ported
    layouts: str | Mapping[str, str] | None = None,
    dtypes: Sequence[str] = ("float32",),
    gradients: bool = True,
    training: bool | None = None,
) -> Report:
    """Do the work of `assert_ported`, and return the report of a failure too."""
    if not dtypes or isinstance(dtypes, str):
        raise SpecError(f"dtypes must be a tuple of one at least. Received: {dtypes!r}.")
    if map is not None and not isinstance(map, (WeightMap, Mapping)):
        raise SpecError(f"map must be a dict, the port's weights by the reference's. Received: {map!r}.")
    if unknown := [dtype for dtype in dtypes if dtype not in DTYPES]:
        raise SpecError(f"dtypes must be of {', '.join(DTYPES)}. Received: {unknown[0]!r}.")
    ours, theirs = in_one_mode(model_of(reference), model_of(port), training)
    check_alike(ours, theirs)
    weights = map if map is None or isinstance(map, WeightMap) else map_of(ours, theirs, map)
    compared = [compare(ours, theirs, inputs, dtype, layouts, gradients, weights) for dtype in dtypes]
    about: dict[str, Any] = {"name": f"{ours.name} -> {theirs.name}", "reference": ours.name}
    about |= {"layout": str(compared[0].layouts), "budget": KIND, "c": SAFETY[KIND]}
    cases = ({"name": CASE, "why": "the inputs of the caller"},)
    witness = list(compared)
    if "float32" not in dtypes and any(cell.verdict.disagrees for item in compared for cell in item.cells):
        witness.append(compare(ours, theirs, inputs, "float32", layouts, gradients, weights))  # is the formula right?
    cells = [cell for cell in _blamed(witness, theirs) if cell.dtype in dtypes]
    unseen = [_uncompared(compared, weights), _nonfinite(compared)]
    state = RunnerState(PORT, detail="; ".join(text for text in unseen if text))
    report = Ported([state], cells, environment=environment(), spec=about, cases=cases)
    for item in compared:
        if red := [cell for cell in report.cells if cell.dtype == item.dtype and cell.verdict.disagrees]:
            names = {check: [c.tensor.removeprefix("d") for c in red if c.check == check] for check in _GRADIENTS}
            wrong = Wrong(names["input_grad"], names["weight_grad"])
            if all(cell.tensor in {f"new_{name}" for name in item.task.job.state} for cell in red):
                found = Localisation(PORT, CASE, item.dtype, STATES_ALONE, None)
            else:
                found = localise(item.reference, item.port, item.dtype, item.layouts, wrong)
            copied = unlike(ours, theirs, weights) if weights is not None else ""
            report.localisations.append(replace(found, line=f"{copied}; {found.line}") if copied else found)
    report.cells = with_causes(report.cells, report.localisations)
    report.finish()
    return report


def _uncompared(compared: Sequence[Compared], weights: WeightMap | None) -> str:
    """Say which states were changed and not compared, or "" for none."""
    if not (names := tuple(dict.fromkeys(name for item in compared for name in item.uncompared))):
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    remedy = "give map= to assert_ported" if weights is None else "the map leaves them out"
    return f"states after the call ({', '.join(names[:_SHOWN])}{more}) are not compared: {remedy}"


def _nonfinite(compared: Sequence[Compared]) -> str:
    """Say in which tensors the reference is not finite, or "" for none."""
    counts = {name: count for item in compared for name, count in item.nonfinite.items()}
    named = ", ".join(f"{count} values of {name}" for name, count in [*counts.items()][:_SHOWN])
    more = f" and of {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    return f"{named}{more} are NaN or infinite in the reference: they tell nothing of the port" if counts else ""


def _blamed(compared: Sequence[Compared], port: Model) -> list[Cell]:
    """Return the cells, each red one with whose fault it is."""
    reference = compared[0].reference.model
    probes = cache(lambda: measure("keras" if port.framework.startswith("keras") else _PROBES[port.framework]))
    return with_blame(list(compared), reference.operation, probes)


def compare_sources(
    reference: str,
    port: str,
    inputs: str | os.PathLike[str],
    *,
    map: str | None = None,
    layouts: str | None = None,
    dtypes: Sequence[str] = ("float32",),
    training: bool | None = None,
) -> Report:
    """Compare two models by name, each in a process of its own, on the arrays of a file: `eca-multi parity port`.

    Args:
        reference, port: "module:factory" or "file.py:factory": a function that makes the model, or the model.
        inputs: An .npz file. One array, or arrays without names, are the arguments in order; others are keywords.
        map: "module:name" or "file.py:name" of the map, or a .json file with the map.
        layouts, dtypes, training: As for `assert_ported`.

    Raises:
        SpecError: As `assert_ported`, or if a name or a file cannot be read.
    """
    arrays, entries = read_inputs(inputs), _read_map(map)
    with Elsewhere("the reference", reference) as ours, Elsewhere("the port", port) as theirs:
        options: dict[str, Any] = {"map": entries, "layouts": layouts, "dtypes": dtypes, "training": training}
        report = compare_models(ours, theirs, arrays, **options)
    return report


def _read_map(source: str | None) -> Mapping[str, str | None] | None:
    if source is None:
        return None
    if not source.endswith(".json"):
        return _checked(load_object(source, "map"), source)
    try:
        return _checked(json.loads(Path(source).read_bytes()), source)
    except (OSError, ValueError) as error:
        raise SpecError(f"the map must be a JSON object. Received: {source}: {error}") from error


def _checked(entries: Any, source: str) -> Mapping[str, str | None]:
    if not isinstance(entries, Mapping):
        raise SpecError(f"the map must be a dict of names. Received: {source}, a {type(entries).__name__}.")
    return entries
