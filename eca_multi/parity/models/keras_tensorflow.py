"""A Keras layer on the TensorFlow backend, run eagerly under a GradientTape."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from eca_multi.parity.define.structures import host, leaves, rebuilt
from eca_multi.parity.engines.keras import to_numpy

from . import keras as _keras
from .calls import Ended, Given, Recorder
from .model import Arrays, Model, Native, Run, outputs_of


class KerasModel(_keras.KerasLayer, Model):
    def native_run(
        self,
        inputs: Any,
        dtype: str,
        cotangents: Arrays | None = None,
        record: bool = False,
        given: Given | None = None,
    ) -> Run:
        layer = self.layer_in(dtype)
        entered = {name: _tensor(array, dtype) for name, array in leaves("x", inputs).items()}
        floats = {name: tensor for name, tensor in entered.items() if tensor.dtype.is_floating}
        kept: dict[Any, Any] = {}

        def keep(key: tuple[str, int], name: str, value: Any) -> Any:
            kept[key, name] = tf.identity(value)
            return kept[key, name]

        recorder = Recorder(keep, given, _like) if record or given else None
        outputs: Native = {}
        states_of = {path: v for path, v in self.variables(layer).items() if not v.trainable and v.dtype != "bool"}
        before = {path: tf.identity(variable.value) for path, variable in states_of.items()}
        with tf.GradientTape() as tape, self.heard(layer, recorder), suppress(Ended):
            tape.watch(list(floats.values()))
            outputs = outputs_of(self.call(layer, rebuilt("x", inputs, entered)))
        states = _restored(states_of, before)
        calls = tuple(recorder.calls) if recorder else ()
        if cotangents is None or given is not None:
            return Run(outputs, calls=calls, states=states)
        heads = {n: t for n, t in outputs.items() if n in cotangents and t.dtype.is_floating}
        drawn = [tf.cast(tf.convert_to_tensor(host(cotangents[name])), head.dtype) for name, head in heads.items()]
        held = {path: v.value for path, v in self.variables(layer).items() if v.trainable}
        every = {
            **{("x", name): tensor for name, tensor in floats.items()},
            **{("w", path): variable for path, variable in held.items()},
            **{key: tensor for key, tensor in kept.items() if tensor.dtype.is_floating},
        }
        zero = tf.UnconnectedGradients.ZERO
        found = tape.gradient(list(heads.values()), list(every.values()), drawn, unconnected_gradients=zero)
        by_leaf = dict(zip(every, map(tf.convert_to_tensor, found), strict=True))
        of_calls = tuple(
            replace(c, gradients={n: by_leaf[c.key, n] for n in c.outputs if (c.key, n) in by_leaf}) for c in calls
        )
        of_inputs, of_weights = ({n: g for (k, n), g in by_leaf.items() if k == kind} for kind in ("x", "w"))
        return Run(outputs, of_inputs, of_weights, of_calls, states=states)

    def to_numpy(self, tensor: Any) -> np.ndarray:
        read = to_numpy(tensor)
        return read.values.astype(tensor.dtype.as_numpy_dtype)


def _restored(held: Native, before: Native) -> Native:
    """Give variables the values back that they had before a call, and return the floating ones that it changed."""
    after = {path: tf.identity(variable.value) for path, variable in held.items()}
    for path, variable in held.items():
        variable.assign(before[path])
    floats = {path: tensor for path, tensor in after.items() if tensor.dtype.is_floating}
    return {p: t for p, t in floats.items() if not np.array_equal(t.numpy(), before[p].numpy(), equal_nan=True)}


def _tensor(array: Any, dtype: str) -> Any:
    tensor = tf.convert_to_tensor(host(array))
    return tf.cast(tensor, dtype) if tensor.dtype.is_floating else tensor


def _like(value: Any, old: Any) -> Any:
    return tf.cast(tf.convert_to_tensor(host(value)), old.dtype)
