"""What the models on JAX share: a pure function of (weights, inputs), run operation by operation and differentiated.

Nothing is compiled as a whole: a network repeats its blocks, whose operations JAX compiles once each.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_multi.parity.define.structures import leaves, rebuilt

from .calls import Call, Ended, Given, Recorder
from .mode import keywords_for, may_say, training_of, with_mode
from .model import Arrays, Model, Native, Run, arguments_of, outputs_of, signature_of

Returned = tuple[Any, Native]  # what a model returns, and the weights and states that the call has replaced
Apply = Callable[[Native, Any, Recorder | None], Returned]
Shifts = Mapping[tuple[tuple[str, int], str], Any]


class JaxModel(Model):
    @abstractmethod
    def functional(self, dtype: str) -> tuple[Apply, Native]:
        """Return apply(weights, inputs, recorder), and the model's own weights by path."""

    @property
    def devices(self) -> frozenset[str]:
        arrays = [array for array in self.functional("float32")[1].values() if isinstance(array, jax.Array)]
        return frozenset(d.platform for a in arrays for d in a.devices()) or frozenset({"cpu"})

    def native_run(
        self,
        inputs: Any,
        dtype: str,
        cotangents: Arrays | None = None,
        record: bool = False,
        given: Given | None = None,
    ) -> Run:
        with jax.enable_x64(True) if dtype == "float64" else nullcontext():
            apply, weights = self.functional(dtype)

            def prepared() -> tuple[Native, Native]:
                entered = {name: cast(jnp.asarray(array), dtype) for name, array in leaves("x", inputs).items()}
                return {name: cast(array, dtype) for name, array in weights.items()}, entered

            def forward() -> Run:
                recorder = Recorder(None, given, like) if record or given else None
                held, entered = prepared()
                with suppress(Ended):
                    returned, states = apply(held, rebuilt("x", inputs, entered), recorder)
                    calls = tuple(recorder.calls) if recorder else ()
                    return Run(outputs_of(returned), calls=calls, states=_floats(states))
                return Run({}, calls=tuple(recorder.calls) if recorder else ())

            if cotangents is None or given is not None:
                run = forward()
                return replace(run, calls=_known(run.calls, forward))
            # Without gradients first: under them all values are tracers.
            calls = _known(forward().calls, forward) if record else ()
            return self._differentiated(apply, inputs, *prepared(), cotangents, calls)

    def _differentiated(
        self,
        apply: Apply,
        inputs: Any,
        weights: Native,
        entered: Native,
        cotangents: Arrays,
        calls: tuple[Call, ...],
    ) -> Run:
        trained = self.trained()
        others = {name: array for name, array in weights.items() if name not in trained}
        wholes = {name: array for name, array in entered.items() if not is_float(array)}

        def run(weights: Native, floats: Native, shifts: Shifts) -> tuple[Native, tuple[Native, Native]]:
            def keep(key: tuple[str, int], name: str, value: Any) -> Any:
                return value + shifts[key, name] if (key, name) in shifts else value  # 0, with the value's gradient

            recorder = Recorder(keep) if shifts else None
            returned, states = apply({**others, **weights}, rebuilt("x", inputs, {**wholes, **floats}), recorder)
            outputs = outputs_of(returned)
            heads = {n: a for n, a in outputs.items() if is_float(a) and n in cotangents}
            return heads, ({n: a for n, a in outputs.items() if n not in heads}, _floats(states))

        own = {name: array for name, array in weights.items() if name in trained}
        floats = {name: array for name, array in entered.items() if is_float(array)}
        shifts = {(c.key, n): jnp.zeros_like(a) for c in calls for n, a in c.outputs.items() if is_float(a)}
        heads, back, (rest, states) = jax.vjp(run, own, floats, shifts, has_aux=True)
        drawn = {name: jnp.asarray(cotangents[name]).astype(head.dtype) for name, head in heads.items()}
        of_weights, of_inputs, of_calls = back(drawn)
        differentiated = tuple(
            replace(c, gradients={n: of_calls[c.key, n] for n in c.outputs if (c.key, n) in of_calls}) for c in calls
        )
        return Run({**heads, **rest}, of_inputs, of_weights, differentiated, states=states)

    def to_numpy(self, tensor: Any) -> np.ndarray:
        return np.array(tensor)


class JaxFunction(JaxModel):
    """A function with parameters in JAX arrays."""

    framework = "jax"

    def __init__(self, function: Callable[..., Any], parameters: Any, keywords: Mapping[str, Any]) -> None:
        self._function, self._parameters, self._keywords = function, parameters, keywords
        self._held = {path: jnp.asarray(array) for path, array in leaves("w", parameters).items()}

    @property
    def name(self) -> str:
        return f"{getattr(self._function, '__name__', 'function')} (jax)"

    def weights(self) -> dict[str, np.ndarray]:
        return {path: np.array(array) for path, array in self._held.items()}

    def trained(self) -> frozenset[str]:
        return frozenset(path for path, array in self._held.items() if is_float(array))

    def with_weights(self, weights: Arrays) -> "JaxFunction":
        new = {path: jnp.asarray(array) for path, array in weights.items()}
        return JaxFunction(self._function, rebuilt("w", self._parameters, {**self._held, **new}), self._keywords)

    @property
    def takes(self) -> str:
        return signature_of(self._function, 1)

    def in_mode(self, training: bool) -> "JaxFunction":
        keywords = with_mode(self.name, self._keywords, keywords_for(self._function, training), training)
        return JaxFunction(self._function, self._parameters, keywords)

    @property
    def training(self) -> str:
        return training_of(self._keywords)

    @property
    def keywords_alone_say(self) -> bool:
        return may_say(self._keywords)

    def functional(self, dtype: str) -> tuple[Apply, Native]:
        def apply(weights: Native, inputs: Any, recorder: Recorder | None) -> Returned:
            arguments, keywords = arguments_of(inputs)
            parameters = rebuilt("w", self._parameters, weights)
            return self._function(parameters, *arguments, **{**self._keywords, **keywords}), {}

        return apply, self._held


def is_float(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def cast(array: Any, dtype: str) -> Any:
    """Return an array with floats of a dtype; integers, booleans and keys of random numbers stay."""
    return array.astype(dtype) if is_float(array) else array


def _floats(arrays: Native) -> Native:
    return {path: array for path, array in arrays.items() if is_float(array)}


def like(value: Any, old: Any) -> Any:
    return jnp.asarray(value).astype(old.dtype)


def _known(calls: tuple[Call, ...], again: Callable[[], Run]) -> tuple[Call, ...]:
    """Leave out the calls inside scan, remat or jit, whose values JAX knows there alone.

    Where the caller traces the run itself, to add noise, all values are tracers: a run outside of it tells which.
    """
    if not any(map(_is_traced, calls)):
        return calls
    with jax.ensure_compile_time_eval():
        outside = {call.key for call in again().calls if not _is_traced(call)}
    return tuple(call for call in calls if call.key in outside)


def _is_traced(call: Call) -> bool:
    return any(isinstance(array, jax.core.Tracer) for array in (*call.inputs.values(), *call.outputs.values()))
