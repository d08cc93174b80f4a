"""Two lines for a notebook or a test: functions and arrays compared in this process."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from .define.tensor import Cotangent, Kind, Solution, Tensor
from .engines import ENGINES, REFERENCES
from .engines.base import Unsupported
from .execute.messages import Do
from .execute.tasks import Task, rounded
from .explain.fingerprints import explain, measure
from .judge.cell import Cell, describe
from .judge.compare import Verdict, judge
from .judge.verdicts import Judge
from .report.report import ParityError

Function = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
ArrayLike = Any

_BASES: Mapping[str, type[Adapter]] = {"torch": TorchAdapter, "jax": JaxAdapter, "numpy": NumpyAdapter}


def assert_match(
    functions: Mapping[str, Function],
    inputs: Mapping[str, ArrayLike] | Sequence[ArrayLike] | ArrayLike,
    weights: Mapping[str, ArrayLike] | Sequence[ArrayLike] | ArrayLike = (),
    reference: Function | str | None = None,
    *,
    dtype: str = "float32",
    gradients: bool | None = None,
) -> None:
    """Compare functions of several frameworks with a float64 reference: outputs and gradients.

    Each is called in this process as f(inputs, weights) with arrays of its own framework in place of the NumPy ones, in
    the same structure. The gradients are those of sum(cotangent * output), for a random cotangent and for ones; NumPy
    functions have none. Integers and booleans are compared exactly, in whatever width they come.

    Args:
        functions: Name -> function. The name says whose arrays it takes: it starts with torch, jax, tensorflow (or
            keras-tensorflow), keras (arrays of its backend) or numpy: "torch", "jax", "torch-mine".
        inputs: An array, or a list or dict of them. Floats are rounded to `dtype`; integers and booleans are not.
        weights: The same; () where there are none.
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
    flat_inputs, flat_weights = _flatten("x", inputs), _flatten("w", weights)
    fill = {"x": inputs, "w": weights}
    chosen, name = _reference(functions, reference)
    gradients = _gradients(name, gradients)
    job = Job("inputs", dtype, {}, {}, (), inputs=rounded(flat_inputs, dtype), weights=rounded(flat_weights, dtype))
    solution, job, kind = _solve(chosen, name, job, fill, gradients)
    by = Judge(BASE, kind)
    faults, undecided = [], []
    for runner, function in functions.items():
        engine = _engine(runner, function, fill, ENGINES)
        try:
            results = engine.evaluate(job)
        except Unsupported as error:
            raise SpecError(f"{runner} cannot compute this: {error}. Leave it out, or take another dtype.") from error
        if not gradients or not any(quantity.cotangent is Cotangent.ONES for quantity in results):
            results, here = {q: t for q, t in results.items() if q.kind is Kind.OUTPUT}, replace(job, gradients=False)
        else:
            here = job
        cells = list(by.cells(runner, Task("", Do.EVALUATE, "inputs", here, None), results, solution))
        wrong = [cell for cell in cells if cell.verdict.disagrees or cell.verdict is Verdict.ERROR]
        undecided += [describe(cell) for cell in cells if cell.verdict is Verdict.INCONCLUSIVE]
        fingerprint = cache(partial(measure, engine.probes))  # seconds: once, however many tensors are wrong
        faults += [_say(cell, fingerprint) for cell in wrong]
    if faults:
        raise ParityError("\n".join(faults))
    if undecided:
        raise SpecError("\n".join([*undecided, "Take inputs at which the reference is well conditioned."]))


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
    limit = Manual(rtol or 0.0, atol).limit(reference) if budget is None else _limit(_host(budget), reference)
    array = _host(actual)
    tensor = Tensor(array, array.dtype.name)
    judgement = judge(tensor, reference, limit, None)
    if not judgement.verdict.green:
        label = "manual" if budget is None else "budget"
        raise ParityError(describe(Cell("actual", "ref64", tensor.dtype, "forward", "array", judgement, label)))


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


def _host(array: Any) -> np.ndarray:
    """Any framework's array in NumPy, which PyTorch refuses where it requires a gradient or is in bfloat16."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":
            return np.asarray(array.float(), DTYPES["bfloat16"])
    return np.asarray(array)


def _flatten(letter: str, value: Any) -> dict[str, np.ndarray]:
    """Name the arrays: those of a dict by its keys, those of a list by number."""
    if isinstance(value, Mapping):
        named = {str(key): _host(item) for key, item in value.items()}
    elif isinstance(value, (list, tuple)) and not all(np.isscalar(item) for item in value):
        named = {f"{letter}{number}": _host(item) for number, item in enumerate(value)}
    elif isinstance(value, (list, tuple)) and not value:
        named = {}
    else:
        named = {letter: _host(value)}
    return {
        name: a.astype(np.float64) if a.dtype.kind == "f" or a.dtype.name == "bfloat16" else a
        for name, a in named.items()
    }


def _restore(letter: str, like: Any, arrays: Mapping[str, Any]) -> Any:
    """Put arrays into the structure that the caller gave."""
    if isinstance(like, Mapping):
        return {key: arrays[str(key)] for key in like}
    if isinstance(like, (list, tuple)) and f"{letter}0" in arrays:
        return type(like)(arrays[f"{letter}{number}"] for number in range(len(like)))
    return arrays.get(letter, ())


def _reference(functions: Mapping[str, Function], wanted: Function | str | None) -> tuple[Function, str]:
    if callable(wanted):
        return wanted, "numpy"
    names = [wanted] if wanted else sorted(functions, key=lambda name: not name.startswith("torch"))
    for name in names:
        if name in functions and name.startswith(("torch", "numpy")):
            return functions[name], name
    raise SpecError(
        f"reference must be a NumPy function, or the name of a torch or numpy one among {', '.join(functions)}. "
        f"Received: {wanted!r}. Only those can be run in float64 with a budget."
    )


def _gradients(reference: str, wanted: bool | None) -> bool:
    """Whether gradients are compared; nobody is to think that they were where they were not."""
    if wanted is False or not reference.startswith("numpy"):
        return wanted is not False
    reason = "a NumPy reference has no gradients to compare with. Give a torch function as the reference"
    if wanted:
        raise SpecError(f"{reason}, or gradients=False.")
    warnings.warn(f"{reason}, or gradients=False to compare outputs alone.", stacklevel=3)
    return False


def _engine(name: str, function: Function, like: Mapping[str, Any], engines: Mapping[str, str]) -> Any:
    base = next((base for key, base in _BASES.items() if name.startswith(key)), None)
    if base is None:
        functions = import_module("eca_multi.parity.engines.functions")
        base = _BASES.get(functions.backend_of(name))
        if base is None:
            return functions.TensorFlowFunctions(_adapter(name, Adapter, function, like))
    module, _, cls = engines[base.engine].partition(":")
    return getattr(import_module(module), cls)(_adapter(name, base, function, like))


def _adapter(name: str, base: type[Adapter], function: Function, like: Mapping[str, Any]) -> Adapter:
    def call(inputs: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
        return function(_restore("x", like["x"], inputs), _restore("w", like["w"], weights))

    adapter: Adapter = type(name, (base,), {"build": lambda self, config: call})()
    return adapter


def _solve(
    function: Function, name: str, job: Job, like: Mapping[str, Any], gradients: bool
) -> tuple[Solution, Job, str]:
    """Run the reference: once for its outputs' names and shapes, then with cotangents for them."""
    engine = _engine(name, function, like, REFERENCES)
    wide = Job("inputs", "float64", {}, {}, (), gradients=False, inputs=job.inputs, weights=job.weights)
    outputs = tuple(engine.named_outputs(wide, engine.compute(wide).outputs))
    check_results(job.inputs, job.weights, (), outputs, (), "what is compared")
    named = replace(wide, outputs=outputs)
    shapes = {q.name: t.values.shape for q, t in engine.collect(named, engine.compute(named)).items()}
    rng = np.random.default_rng(0)
    cotangents = {n: np.asarray(rng.normal(size=shape)) for n, shape in shapes.items()}
    full = replace(job, outputs=outputs, gradients=gradients, cotangents=rounded(cotangents, job.dtype))
    solution = engine.solve(full)
    for key, (value, _) in solution.items():
        if not np.isfinite(value).all() and all(np.isfinite(a).all() for a in job.inputs.values() if is_float(a)):
            raise SpecError(f"the reference must be finite for finite inputs. Received: {key} with NaN or infinity.")
    return solution, full, engine.kind


def _say(cell: Cell, fingerprint: Callable[[], Mapping[str, Any]]) -> str:
    try:
        why = explain(cell.tensor, cell.dtype, fingerprint())
    except Exception:  # a fingerprint explains; what it cannot say must not hide the fault
        why = None
    return describe(cell) + (f" -> {why}" if why else "")
