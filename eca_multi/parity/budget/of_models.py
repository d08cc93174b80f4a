"""The float64 reference of a caller's model, with the stochastic budget: one way in for every framework that can."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.dtypes import U_ACC, quantise, rounding
from eca_multi.parity.define.tensor import Kind, Quantity, Solution
from eca_multi.parity.models import Given, Model, Run
from eca_multi.parity.models.elsewhere import Elsewhere
from eca_multi.parity.models.numpy import NumpyFunction

from .noisy_array import budget_numpy

# By framework: the module beside this one whose `budget` re-runs its operations with rounding noise.
_NOISE = {
    "torch": "noise",
    "keras-torch": "noise",
    "jax": "jax_noise",
    "nnx": "jax_noise",
    "linen": "jax_noise",
    "keras-jax": "jax_noise",
    "keras-tensorflow": "tensorflow_noise",
}


def rounded_model(model: Model, dtype: str) -> Model:
    """Return the model with its floating weights rounded to a dtype."""
    held = {n: a for n, a in model.weights().items() if a.dtype.kind == "f" or a.dtype.name == "bfloat16"}
    new = {name: quantise(array, dtype).astype(np.float32) for name, array in held.items()}
    changed = {name: array for name, array in new.items() if not np.array_equal(array, held[name], equal_nan=True)}
    return model.with_weights(changed) if changed else model


def solve(
    model: Model,
    inputs: Any,
    dtype: str,
    cotangents: Mapping[str, np.ndarray] | None = None,
    *,
    record: bool = False,
    given: Given | None = None,
) -> Solution:
    """Return the reference's outputs and gradients, and with `record` its submodules' outputs, each with its error E.

    Raises:
        SpecError: If no budget can be measured for this framework or this model.
    """
    if isinstance(model, Elsewhere):
        solution: Solution = model.call(solve, inputs, dtype, cotangents, record=record, given=given)
        return solution
    levels = rounding(dtype)

    def evaluate() -> dict[Quantity, Any]:
        return quantities(model.native_run(inputs, "float64", cotangents, record, given))

    try:
        if isinstance(model, NumpyFunction):
            values, errors = budget_numpy(_wrapped(model, inputs), levels.u, U_ACC, levels.tiny)
        else:
            values, errors = noise_of(model)(evaluate, levels.u, U_ACC, levels.tiny)
    except RuntimeError as error:
        if "random" not in str(error):
            raise
        raise SpecError(f"the reference must compute the same at each call. {error}") from error
    return {quantity: (values[quantity], errors[quantity]) for quantity in values}


def _wrapped(model: NumpyFunction, inputs: Any) -> Callable[..., dict[Quantity, Any]]:
    def evaluate(wrap: Callable[[np.ndarray], np.ndarray]) -> dict[Quantity, Any]:
        return quantities(model.with_wrap(wrap).native_run(inputs, "float64"))

    return evaluate


def noise_of(model: Model) -> Callable[..., Any]:
    """Return the function that measures a budget for models of this framework."""
    name = _NOISE.get(model.framework)
    try:
        measure: Callable[..., Any] = import_module(f"{__package__}.{name}").budget
        return measure
    except ModuleNotFoundError as error:
        if name is not None and error.name != f"{__package__}.{name}":
            raise
    raise SpecError(
        "the reference must be a model whose operations can be run again with rounding noise: torch, JAX, Flax, Keras "
        f"or NumPy. Received: one of {model.framework}. Give the torch model as the reference."
    )


def quantities(run: Run) -> dict[Quantity, Any]:
    """Name all that a run returned."""
    groups = {
        Kind.OUTPUT: run.outputs,
        Kind.INPUT_GRADIENT: run.input_gradients,
        Kind.WEIGHT_GRADIENT: run.weight_gradients,
        Kind.STATE: run.states,
    }
    named = {Quantity(kind, name): tensor for kind, group in groups.items() for name, tensor in group.items()}
    for call in run.calls:
        for kind, group in ((Kind.TAP, call.outputs), (Kind.TAP_GRADIENT, call.gradients)):
            named |= {Quantity(kind, f"{call.path}#{call.number}#{name}"): tensor for name, tensor in group.items()}
    return named


def tap_of(key: tuple[str, int], name: str, kind: Kind = Kind.TAP) -> Quantity:
    """Return the quantity of what a call of a submodule returned."""
    return Quantity(kind, f"{key[0]}#{key[1]}#{name}")
