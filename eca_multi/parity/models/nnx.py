"""A Flax nnx module of the caller, with the weights that it has."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from .calls import Recorder
from .jax import Apply, JaxModel, Returned
from .model import Arrays, Native, arguments_of, signature_of

WEIGHTS = nnx.Not(nnx.RngState)  # the counts and keys of random numbers are no weights


class NnxModel(JaxModel):
    framework = "nnx"

    def __init__(self, module: Any) -> None:
        self.module = module

    def weights(self) -> dict[str, np.ndarray]:
        return {path: np.array(array) for path, array in _values(self.module, WEIGHTS).items()}

    def trained(self) -> frozenset[str]:
        return frozenset(_values(self.module, nnx.Param))

    def with_weights(self, weights: Arrays) -> "NnxModel":
        return NnxModel(_merged(self.module, {name: jax.numpy.asarray(array) for name, array in weights.items()}))

    @property
    def takes(self) -> str:
        return signature_of(type(self.module).__call__, 1)

    def in_mode(self, training: bool) -> "NnxModel":
        module = _merged(self.module, {})
        (module.train if training else module.eval)()
        return NnxModel(module)

    @property
    def name(self) -> str:
        return f"{type(self.module).__name__} (nnx)"

    @property
    def training(self) -> str:
        for keys, part in nnx.iter_modules(self.module):
            rate = getattr(part, "rate", 0.0)
            drops = getattr(part, "deterministic", None) is False and rate > 0
            if drops or getattr(part, "use_running_average", None) is False:
                return f"{_path(keys) or 'the model'} ({type(part).__name__})"
        return ""

    def functional(self, dtype: str) -> tuple[Apply, Native]:
        def apply(weights: Native, inputs: Any, recorder: Recorder | None) -> Returned:
            module = _merged(self.module, weights)
            _begin_in(module, dtype)
            if recorder is not None:
                _listen(module, recorder)
            arguments, keywords = arguments_of(inputs)
            out = module(*arguments, **keywords)
            after = _values(module, WEIGHTS)
            return out, {path: value for path, value in after.items() if value is not weights.get(path)}

        return apply, _values(self.module, WEIGHTS)


def _values(module: Any, kind: Any) -> Native:
    state = nnx.state(module, kind)
    return {_path(keys): variable.get_value() for keys, variable in nnx.to_flat_state(state)}


def _merged(module: Any, weights: Mapping[str, Any]) -> Any:
    """Return a copy of the module that holds these weights, and its own where there are none."""
    graph, state = nnx.split(module)
    if unknown := set(weights) - {_path(keys) for keys, _ in nnx.to_flat_state(state)}:
        raise KeyError(sorted(unknown)[0])
    flat = [
        (keys, variable.replace(weights.get(_path(keys), variable.get_value())))
        for keys, variable in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def _begin_in(module: Any, dtype: str) -> None:
    """Let recurrent cells begin with states of a dtype: JAX's loops refuse a state whose dtype changes."""
    for _, part in nnx.iter_modules(module):
        if hasattr(part, "initialize_carry") and hasattr(part, "param_dtype"):
            part.param_dtype = jax.numpy.dtype(dtype)


def _listen(module: Any, recorder: Recorder) -> None:
    """Give each module a class of its own, whose call the recorder hears."""
    for keys, part in nnx.iter_modules(module):
        base = type(part)
        if not callable(part):
            continue

        def call(self: Any, *arguments: Any, base: Any = base, path: str = _path(keys), **keywords: Any) -> Any:
            return recorder.call(path, base.__name__, base.__call__.__get__(self), arguments, keywords)

        part.__class__ = type(base.__name__, (base,), {"__call__": call})


def _path(keys: tuple[Any, ...]) -> str:
    return ".".join(map(str, keys))
