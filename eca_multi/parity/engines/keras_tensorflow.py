"""Keras on TensorFlow: GradientTape, eagerly and under `tf.function(jit_compile=True)`."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from eca_multi.parity.define.adapters import Adapter
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import Cotangent, Tensor

from . import keras as _keras
from .base import Computed, Native
from .tensorflow import TensorFlowEngine
from .weight_map import check_trained, map_of


class KerasEngine(TensorFlowEngine):
    distributions = ("keras", "tensorflow")
    probes = "keras"
    optimizers = "optimizer_keras"

    def __init__(self, adapter: Adapter) -> None:
        super().__init__(adapter)
        self._layers: dict[object, tuple[Any, dict[str, Any]]] = {}
        self._programs: dict[object, Callable[..., Any]] = {}

    def compute(self, job: Job) -> Computed:
        layer, variables = self.layer(job)
        weight_map = map_of(self.adapter, job, variables)
        _keras.assign(job, weight_map, variables)
        self.check_loaded(job, weight_map, {name: variable.value for name, variable in variables.items()})
        check_trained(self.adapter, job, weight_map, _keras.trained(variables))
        weights = {n: variables[n] for n in weight_map.holding(job.weights)}
        cotangents = {name: self.tensor(array, job.dtype) for name, array in self.native_cotangents(job).items()}
        run = self.program(job, layer, weights)
        returned, taps, grads = run(self.tensors(job), cotangents)
        state = {n: tf.identity(variables[n].value) for n in weight_map.holding(job.state)}
        done = Computed(returned, weight_map, state, taps=taps)
        if job.gradients:
            done.input_grads[Cotangent.DRAWN], done.weight_grads[Cotangent.DRAWN], done.tap_grads = grads
            _keras.assign(job, weight_map, variables)
            ones = {name: tf.ones_like(cotangent) for name, cotangent in cotangents.items()}
            *_, again = run(self.tensors(job), ones)  # half as much to compile as both in one
            done.input_grads[Cotangent.ONES], done.weight_grads[Cotangent.ONES], _ = again
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

            floats = {name: tensor for name, tensor in inputs.items() if tensor.dtype.is_floating}
            with tf.GradientTape() as tape, self.listening(record if job.taps else None):
                tape.watch(list(floats.values()))
                outputs = self.named_outputs(job, self.adapter.call(layer, inputs, settings))
            if not job.gradients:
                return outputs, taps, ()
            leaves = [floats, {n: v.value for n, v in weights.items()}, taps]
            return outputs, taps, self.gradients(job, tape, outputs, leaves, cotangents)

        return run

    def to_numpy(self, tensor: Any) -> Tensor:
        return _keras.to_numpy(tensor)

    def save_and_load(self, job: Job) -> Native:
        layer, variables = self.layer(job)
        _keras.assign(job, map_of(self.adapter, job, variables), variables)
        return _keras.save_and_load(layer, _keras.build(self.adapter, job, self.tensors(job)))


def _compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """Compile by XLA, which refuses a layer that it cannot compile; the count of traces proves that it compiled."""
    program = tf.function(run, jit_compile=True, autograph=False)

    def call(*arguments: Any) -> Any:
        results = program(*arguments)
        if program.experimental_get_tracing_count() != 1:
            raise RuntimeError(f"tf.function traced {program.experimental_get_tracing_count()} times for one structure")
        return results

    return call
