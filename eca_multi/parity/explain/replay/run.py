"""A model on JAX, or one call of its submodule, run in PyTorch in float64."""

from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from eca_multi.parity.budget.of_models import tap_of
from eca_multi.parity.define.structures import leaves, rebuilt
from eca_multi.parity.define.tensor import Kind, Quantity
from eca_multi.parity.models import Given
from eca_multi.parity.models.calls import Ended, Recorder
from eca_multi.parity.models.jax import Apply, JaxModel, cast, is_float, like
from eca_multi.parity.models.model import outputs_of

from .composites import composed
from .primitives import computed, known, tensor
from .program import Program, Value, traced

Arrays = dict[str, Any]


class Replay:
    """The call of a submodule, or of the whole model, again and again with changes to PyTorch's operations.

    Raises:
        Unknown: If the call has a part that cannot be replayed.
    """

    def __init__(self, model: JaxModel, inputs: Any, given: Given | None) -> None:
        self._names: list[Quantity] = []
        with jax.enable_x64(True):
            apply, held = model.functional("float64")
            weights = {name: cast(array, "float64") for name, array in held.items()}
            whole = {name: cast(jnp.asarray(array), "float64") for name, array in leaves("x", inputs).items()}
            entered = whole
            if given is not None:
                entered = {name: cast(jnp.asarray(array), "float64") for name, array in given.inputs.items()}

            def call(*arrays: Any) -> list[Any]:
                own = dict(zip(weights, arrays, strict=False))
                replaced = dict(zip(entered, arrays[len(weights) :], strict=True))
                outputs = _outputs(apply, own, inputs, whole, given, replaced)
                self._names[:] = outputs
                return list(outputs.values())

            arguments = [*weights.values(), *entered.values()]
            program = traced(call, arguments)
            trained = model.trained()
            tensors = [_native(np.asarray(a), name in trained) for name, a in zip(weights, arguments, strict=False)]
            tensors += [_native(np.asarray(a), False).requires_grad_(is_float(a)) for a in entered.values()]
        self._arguments = tensors
        self._program = composed(program, _run(program, tensors))

    def run(self, changes: AbstractContextManager[Any] | None = None) -> dict[Quantity, torch.Tensor]:
        """Return what the submodule returns, its operations run within `changes`."""
        with changes or nullcontext():
            values = _run(self._program, self._arguments)
            results = [_read(values, result) for result in self._program.results]
        named = zip(self._names, results, strict=True)
        return {quantity: tensor(result).detach() for quantity, result in named}


def _outputs(apply: Apply, weights: Arrays, inputs: Any, whole: Arrays, given: Given | None, replaced: Arrays) -> Any:
    """Return by quantity what the submodule of `given` returns for the inputs `replaced`, or the whole model."""
    if given is None:
        returned, _ = apply(weights, rebuilt("x", inputs, replaced), None)
        return {Quantity(Kind.OUTPUT, name): array for name, array in outputs_of(returned).items()}
    recorder = Recorder(None, Given(given.key, replaced), like)
    with suppress(Ended):
        apply(weights, rebuilt("x", inputs, whole), recorder)
    return {tap_of(given.key, name): array for name, array in recorder.calls[-1].outputs.items()}


def _native(array: np.ndarray, is_trained: bool) -> torch.Tensor:
    value = torch.from_numpy(np.array(array))
    return torch.nn.Parameter(value) if is_trained and value.is_floating_point() else value


def _run(program: Program, arguments: list[torch.Tensor]) -> dict[int, Any]:
    values: dict[int, Any] = {v.number: x for v, x in zip(program.arguments, arguments, strict=True)}
    for equation in program.equations:
        made = computed(equation, [_read(values, read) for read in equation.reads])
        values.update((value.number, x) for value, x in zip(equation.makes, made, strict=True))
    return values


def _read(values: dict[int, Any], read: Any) -> Any:
    return values[read.number] if isinstance(read, Value) else known(read)
