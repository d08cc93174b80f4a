"""Keras on TensorFlow: GradientTape, eagerly and under `tf.function(jit_compile=True)`."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from eca_multi.parity.adapters import Adapter
from eca_multi.parity.jobs import ONES, Job, Tensor, is_float

from . import _keras
from .base import Computed, Engine, Native


class KerasEngine(Engine):
    distributions = ("keras", "tensorflow")

    def __init__(self, adapter: Adapter) -> None:
        super().__init__(adapter)
        self._layers: dict[object, tuple[Any, dict[str, Any]]] = {}
        self._programs: dict[object, Callable[..., Any]] = {}

    def compute(self, job: Job) -> Computed:
        layer, variables = self.layer(job)
        slots = self.slots(job, variables)
        for name, array in self.native_weights(job, slots).items():
            variables[name].assign(array)
        self.check_loaded(job, slots, {name: variable.value for name, variable in variables.items()})
        weights = {n: v for n, v in variables.items() if n in slots and slots[n].name in job.weights}
        cotangents = {name: self.tensor(array, job.dtype) for name, array in self.native_cotangents(job).items()}
        run = self.program(job, layer, weights)
        returned, taps, grads = run(self.tensors(job), cotangents)
        state = {n: tf.identity(variables[n].value) for n, slot in slots.items() if slot.name in job.state}
        done = Computed(returned, slots, state, taps=taps)
        for suffix, (by_input, by_weight, by_tap) in grads.items():
            done.input_grads[suffix], done.weight_grads[suffix] = by_input, by_weight
            if not suffix:
                done.tap_grads = by_tap
        return done

    def layer(self, job: Job) -> tuple[Any, dict[str, Any]]:
        if job.structure not in self._layers:
            layer = _keras.build(self.adapter, job, self.tensors(job))
            self._layers[job.structure] = layer, _keras.variables(layer)
        return self._layers[job.structure]

    def program(self, job: Job, layer: Any, weights: Native) -> Callable[..., Any]:
        key = (job.structure, job.compiled, job.gradients)
        if key not in self._programs:
            run = self._differentiated(job, layer, weights)
            self._programs[key] = _compiled(run) if job.compiled else run
        return self._programs[key]

    def _differentiated(self, job: Job, layer: Any, weights: Native) -> Callable[..., Any]:
        settings = job.settings()

        def run(inputs: Native, cotangents: Native) -> Any:
            taps: Native = {}

            def record(name: str, value: Any) -> Any:
                taps[name] = tf.identity(value)
                return taps[name]

            leaves = {name: tensor for name, tensor in inputs.items() if tensor.dtype.is_floating}
            with tf.GradientTape(persistent=True) as tape, self.listening(record if job.taps else None):
                tape.watch(list(leaves.values()))
                outputs = self.named_outputs(job, self.adapter.call(layer, inputs, settings))
            grads: dict[str, Any] = {}
            for suffix in ("", ONES) if job.gradients else ():
                heads = {n: t for n, t in outputs.items() if n in job.outputs and t.dtype.is_floating}
                given = [
                    # A wrong shape is judged as such, not raised.
                    tf.ones_like(t)
                    if suffix or n not in cotangents or cotangents[n].shape != t.shape
                    else tf.cast(cotangents[n], t.dtype)
                    for n, t in heads.items()
                ]
                sought = [leaves, {n: v.value for n, v in weights.items()}, taps]
                grads[suffix] = tape.gradient(
                    list(heads.values()), sought, given, unconnected_gradients=tf.UnconnectedGradients.ZERO
                )
            return outputs, taps, grads

        return run

    def tensors(self, job: Job) -> dict[str, Any]:
        return {name: self.tensor(array, job.dtype) for name, array in self.native_inputs(job).items()}

    def tensor(self, array: Any, dtype: str) -> Any:
        return tf.cast(tf.convert_to_tensor(array), dtype) if is_float(array) else tf.convert_to_tensor(array)

    def to_numpy(self, tensor: Any) -> Tensor:
        return _keras.to_numpy(tensor)

    def save_and_load(self, job: Job) -> Native:
        layer, variables = self.layer(job)
        slots = self.slots(job, variables)
        for name, array in self.native_weights(job, slots).items():
            variables[name].assign(array)
        return _keras.save_and_load(self.adapter, job, layer, self.tensors(job))

    def fingerprint(self) -> dict[str, Any]:
        from eca_multi.parity.fingerprints._keras import probe

        return probe()


def _compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """Compile by XLA, which refuses what it cannot compile, and prove by the count of traces that it did."""
    program = tf.function(run, jit_compile=True, autograph=False)

    def call(*arguments: Any) -> Any:
        results = program(*arguments)
        if program.experimental_get_tracing_count() != 1:
            raise RuntimeError(f"tf.function traced {program.experimental_get_tracing_count()} times for one structure")
        return results

    return call
