"""The verbs for a notebook or a test: functions and arrays are compared in this process, without workers."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np

from .define.adapters import Adapter, JaxAdapter, NumpyAdapter, TorchAdapter
from .define.axes import SpecError
from .define.checks import BASE
from .define.dtypes import DTYPES
from .define.job import Job, is_float
from .define.spec import Manual, check_results
from .define.structures import flatten, host, restore
from .define.tensor import Cotangent, Kind, Outputs, Solution, Tensor
from .engines import ENGINES, REFERENCES
from .engines.base import Unsupported
from .execute.messages import Do
from .execute.tasks import Task, rounded
from .explain.fingerprints import explain, measure
from .explain.hypotheses.cause import Cause, say_causes
from .explain.rerun import with_results
from .judge.cell import Cell
from .judge.compare import Verdict, judge
from .judge.verdicts import Judge
from .models import is_model, model_of
from .port import compare_models, raise_for_port
from .report.report import ParityError, describe

Call = Callable[[Any, Any], Any]
ArrayLike = Any
Reasons = Callable[[], tuple[Mapping[str, str], str]]

_BASES: Mapping[str, type[Adapter]] = {"torch": TorchAdapter, "jax": JaxAdapter, "numpy": NumpyAdapter}


@dataclass(frozen=True)
class _Function:
    """A function of the caller. `framework` says whose arrays the function takes."""

    name: str
    call: Call
    framework: str


def assert_match(
    functions: Mapping[str, Call],
    inputs: Mapping[str, ArrayLike] | Sequence[ArrayLike] | ArrayLike,
    weights: Mapping[str, ArrayLike] | Sequence[ArrayLike] | ArrayLike = (),
    reference: Call | str | None = None,
    *,
    dtype: str = "float32",
    gradients: bool | None = None,
) -> None:
    """Compare functions of several frameworks with a float64 reference: outputs and gradients.

    Each function is called in this process as f(inputs, weights), with arrays of its framework in the structure of the
    NumPy arrays. Gradients are those of sum(cotangent * output), for a random cotangent and for ones; NumPy functions
    have no gradients. Integers and booleans are compared exactly, whatever their width.

    Models are compared too, each with the weights that it has, as `assert_ported` compares them: they take the inputs
    alone.

    Args:
        functions: Name -> function, or name -> model (anything that `assert_ported` takes). The name of a function
            says whose arrays it takes: it starts with torch, jax, tensorflow (or keras-tensorflow), keras (arrays of
            its backend) or numpy: "torch", "jax", "torch-mine". That of a model says nothing.
        inputs: An array, or lists, tuples and dicts of them, as deep as they come. Floats are rounded to `dtype`;
            integers and booleans are not.
        weights: The same, for weights; () for a function without weights.
        reference: A NumPy function of (inputs, weights), or the name of one of `functions` to run in float64. None
            takes the first torch function, and else the first NumPy one.
        dtype: "float32", "bfloat16" or "float16".
        gradients: Whether to compare them. None compares them where the reference has any, and warns where it is a
            NumPy function, which has none; True refuses one.

    Raises:
        ParityError: Naming who is off, where, and by how much of the budget. It is an AssertionError.
        SpecError: If there is nothing to judge by, an infinite budget included, or a framework cannot do what is asked.

    Example:
        >>> import numpy as np
        >>> from eca_multi import parity
        >>> parity.assert_match({"torch": lambda x, w: x * w.sigmoid(), "numpy": lambda x, w: x / (1 + np.exp(-w))},
        ...                     np.linspace(-1, 1, 7), np.float32(0.3))
    """
    if dtype not in DTYPES:
        raise SpecError(f"dtype must be one of {', '.join(DTYPES)}. Received: {dtype!r}.")
    if not functions:
        raise SpecError("functions must hold one at least. Received: none.")
    if any(map(is_model, functions.values())) and not flatten("w", weights):
        _match_models(functions, inputs, reference, dtype, gradients)
        return
    known = [_Function(name, call, _framework(name)) for name, call in functions.items()]
    like = {"x": inputs, "w": weights}
    chosen = _reference(known, reference)
    gradients = _has_gradients(chosen, gradients)
    flat_inputs, flat_weights = rounded(flatten("x", inputs), dtype), rounded(flatten("w", weights), dtype)
    trained = {name: array for name, array in flat_weights.items() if is_float(array)}
    fixed = {name: array for name, array in flat_weights.items() if name not in trained}  # they have no gradients
    job = Job("inputs", dtype, {}, {}, (), inputs=flat_inputs, weights=trained, state=fixed)
    solution, job, kind = _solve(chosen, job, like, gradients)
    reference64 = _engine(chosen, like, REFERENCES)
    faults, undecided = [], []
    for function in known:
        engine = _engine(function, like, ENGINES)
        try:
            results = engine.evaluate(job)
        except Unsupported as error:
            raise SpecError(
                f"{function.name} cannot compute this: {error}. Leave it out, or take another dtype."
            ) from error
        has_gradients = gradients and any(quantity.cotangent is Cotangent.ONES for quantity in results)
        task = Task("", Do.EVALUATE, "inputs", replace(job, gradients=has_gradients, state={}), None)
        fingerprint = cache(partial(measure, engine.probes))  # takes seconds: once, however many tensors are wrong
        reasons = cache(partial(_reasons, reference64, job, results))
        disagreements = 0
        for cell in Judge(BASE, kind).cells(function.name, task, results, solution):
            if cell.verdict.disagrees or cell.verdict is Verdict.ERROR:
                faults.append(_explained(cell, results, fingerprint, reasons) + _cut(cell, results, solution))
                disagreements += 1
            elif cell.verdict is Verdict.INCONCLUSIVE:
                undecided.append(describe(cell))
        if disagreements and (cause := reasons()[1]):
            faults.append(f"{function.name} {cause}")
    if faults:
        raise ParityError("\n".join(faults))
    if undecided:
        raise SpecError("\n".join([*undecided, "Take inputs at which the reference is well conditioned."]))


def _match_models(
    models: Mapping[str, Any], inputs: Any, reference: Call | str | None, dtype: str, gradients: bool | None
) -> None:
    """Compare models, each with its own weights, with one of them."""
    own = {name: model_of(thing) for name, thing in models.items()}
    first = next((name for name, model in own.items() if model.framework == "torch"), next(iter(own)))
    chosen = own.get(first if reference is None else str(reference)) if not callable(reference) else None
    if chosen is None:
        raise SpecError(f"reference must be one of the models: {', '.join(own)}. Received: {reference!r}.")
    faults = []
    for name, model in own.items():
        report = compare_models(chosen, model, inputs, dtypes=(dtype,), gradients=gradients is not False)
        try:
            raise_for_port(report, name)
        except ParityError as error:
            faults.append(str(error))
    if faults:
        raise ParityError("\n".join(faults))


def assert_close(
    actual: ArrayLike,
    ref64: ArrayLike,
    *,
    budget: ArrayLike | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
) -> None:
    """Compare an array with a float64 reference, element by element: |actual - ref64| <= budget.

    Args:
        actual: An array of any framework that NumPy can read, in the dtype that it was computed in.
        ref64: The float64 reference, of the same shape.
        budget: The largest error allowed, of a shape that broadcasts to it; E of an error analysis with its c, say.
        rtol, atol: In place of a budget, a tolerance by hand: atol + rtol * |ref64|.

    Raises:
        ParityError: Naming the worst element, and by how much of the budget it is off.
        SpecError: If neither a budget nor a tolerance is given, or one that cannot be a largest error.

    Example:
        >>> import numpy as np
        >>> from eca_multi import parity
        >>> parity.assert_close(np.float32([1.0, 2.0]), [1.0, 2.0 + 1e-8], budget=1e-6)
    """
    reference = np.asarray(ref64, np.float64)
    if (budget is None) == (rtol is None and atol == 0.0):
        raise SpecError(
            "either budget or rtol and atol must be given. A budget is the largest error, element by element."
        )
    limit = Manual(rtol or 0.0, atol).limit(reference) if budget is None else _limit(host(budget), reference)
    array = host(actual)
    judgement = judge(Tensor(array, array.dtype.name), reference, limit, None)
    if not judgement.verdict.green:
        label = "manual" if budget is None else "budget"
        raise ParityError(describe(Cell("actual", "ref64", array.dtype.name, "forward", "array", judgement, label)))


def _limit(budget: np.ndarray, reference: np.ndarray) -> np.ndarray:
    try:
        limit = np.broadcast_to(budget.astype(np.float64), reference.shape)
    except ValueError as error:
        raise SpecError(
            f"the budget must have a shape that broadcasts to that of ref64, {reference.shape}. "
            f"Received: {budget.shape}."
        ) from error
    # Where the reference is not finite, no budget is asked for.
    wrong = limit[np.isfinite(reference) & ~((limit >= 0) & np.isfinite(limit))]
    if wrong.size:
        raise SpecError(f"the budget must be 0 or more, and finite, in every element. Received: {wrong.flat[0]}.")
    return limit


def _framework(name: str) -> str:
    """Return the framework of a function's arrays, from its name; "keras" is the backend of this process."""
    if plain := next((known for known in _BASES if name.startswith(known)), None):
        return plain
    if name in ("tf", "tensorflow", "keras-tensorflow") or name.startswith(("tf-", "tensorflow-")):
        return "tensorflow"
    if name.startswith("keras"):
        return str(import_module("keras").backend.backend())
    if name.startswith(("linen", "nnx", "flax")):
        return "jax"
    raise SpecError(
        f"functions must have names that start with torch, jax, tensorflow, keras or numpy. Received: {name!r}."
    )


def _reference(functions: Sequence[_Function], wanted: Call | str | None) -> _Function:
    if callable(wanted):
        return _Function("numpy", wanted, "numpy")
    torch_first = sorted(functions, key=lambda function: function.framework != "torch")
    for function in torch_first:
        if function.framework in ("torch", "numpy") and wanted in (None, function.name):
            return function
    raise SpecError(
        "reference must be a NumPy function, or the name of a torch or numpy one among "
        f"{', '.join(function.name for function in functions)}. "
        f"Received: {wanted!r}. Only those can be run in float64 with a budget."
    )


def _has_gradients(reference: _Function, wanted: bool | None) -> bool:
    """Return whether gradients are compared; warn where the caller may think so and they are not."""
    if wanted is False or reference.framework != "numpy":
        return wanted is not False
    reason = "a NumPy reference has no gradients to compare with. Give a torch function as the reference"
    if wanted:
        raise SpecError(f"{reason}, or gradients=False.")
    warnings.warn(f"{reason}, or gradients=False to compare outputs alone.", stacklevel=3)
    return False


def _engine(function: _Function, like: Mapping[str, Any], engines: Mapping[str, str]) -> Any:
    """Return the engine that runs a function on arrays in the caller's structure."""

    role = ", as the reference in float64" if engines is REFERENCES else ""

    def call(inputs: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
        try:
            return function.call(restore("x", like["x"], inputs), restore("w", like["w"], weights))
        except Exception as error:
            error.add_note(f"The function {function.name!r} of parity.assert_match raised this{role}.")
            raise

    base = _BASES.get(function.framework, Adapter)
    adapter = type(function.name, (base,), {"build": lambda self, config: call})()
    source = engines.get(base.engine, "eca_multi.parity.engines.tensorflow:TensorFlowEngine")
    module, _, cls = source.partition(":")
    return getattr(import_module(module), cls)(adapter)


def _solve(reference: _Function, job: Job, like: Mapping[str, Any], gradients: bool) -> tuple[Solution, Job, str]:
    """Run the reference: once for its outputs' names and shapes, then with cotangents for them."""
    engine = _engine(reference, like, REFERENCES)
    wide = replace(job, dtype="float64", gradients=False)
    outputs = tuple(engine.named_outputs(wide, engine.compute(wide).outputs))
    check_results(job.inputs, job.weights, job.state, outputs, (), "what is compared")
    named = replace(wide, outputs=outputs)
    wanted = engine.collect(named, engine.compute(named)).items()
    shapes = {q.name: t.values.shape for q, t in wanted if q.kind is Kind.OUTPUT}
    rng = np.random.default_rng(0)
    cotangents = {n: np.asarray(rng.normal(size=shape)) for n, shape in shapes.items()}
    full = replace(job, outputs=outputs, gradients=gradients, cotangents=rounded(cotangents, job.dtype))
    solution = engine.solve(full)
    for quantity, (value, _) in solution.items():
        if not np.isfinite(value).all() and all(np.isfinite(a).all() for a in job.inputs.values() if is_float(a)):
            raise SpecError(
                f"the reference must be finite for finite inputs. Received: {quantity.label} with NaN or infinity."
            )
    return solution, full, engine.kind


def _cut(cell: Cell, results: Outputs, solution: Solution) -> str:
    """Return why a weight's gradient is zero throughout on one side, as where a copy cuts the graph."""
    quantity = next((q for q in results if q.label == cell.tensor and q.kind is Kind.WEIGHT_GRADIENT), None)
    if quantity is None or results[quantity].values.any() == solution[quantity][0].any():
        return ""
    whose = "the reference" if results[quantity].values.any() else cell.runner
    return (
        f" -> no gradient of {whose} reaches {quantity.name}: a copy into a layer cuts the graph, as load_state_dict, "
        ".data and nn.Parameter(w) do; torch.func.functional_call(layer, weights, x) keeps it"
    )


def _explained(cell: Cell, results: Outputs, fingerprint: Callable[[], Mapping[str, Any]], reasons: Reasons) -> str:
    """Describe a fault, with the fact of the framework's fingerprint that explains it."""
    quantity = next((quantity for quantity in results if quantity.label == cell.tensor), None)
    try:
        nonfinite = cell.verdict is Verdict.NONFINITE_MISMATCH
        operations = reasons()[0].get(quantity.key, "").split() if quantity else []
        why = explain(quantity, cell.dtype, fingerprint(), operations, nonfinite=nonfinite) if quantity else None
    except Exception:  # the fault must be told, whatever the probes do
        why = None
    return describe(cell) + (f" -> {why}" if why else "")


def _reasons(reference: Any, job: Job, results: Outputs) -> tuple[Mapping[str, str], str]:
    """Return the operations of a PyTorch reference by stage, and the causes of a fault in one line."""
    if reference.adapter.engine != "torch":
        return {}, ""
    try:
        hypotheses = import_module("eca_multi.parity.explain.hypotheses.reference")
        stages, causes = hypotheses.explain(reference, with_results(job, results))
    except Exception:  # the fault must be told, whatever the hypotheses do
        return {}, ""
    return stages, say_causes([Cause(says, share) for says, share in causes.items()])
