"""The engine for TensorFlow functions of (inputs, weights), on which that of Keras on TensorFlow builds."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from eca_multi.parity.define.job import Job, is_float
from eca_multi.parity.define.tensor import Cotangent, Tensor

from .base import Computed, Engine, Native
from .weight_map import map_of, native_weights


class TensorFlowEngine(Engine):
    distributions: tuple[str, ...] = ("tensorflow",)

    def compute(self, job: Job) -> Computed:
        weight_map = map_of(self.adapter, job)
        native = native_weights(job, weight_map)
        weights = {n: self.tensor(a, job.parameters) for n, a in native.items()}
        inputs = self.tensors(job)
        floats = {n: t for n, t in inputs.items() if t.dtype.is_floating}
        trained = {n: weights[n] for n in weight_map.holding(job.weights)}
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([*floats.values(), *trained.values()])
            outputs = self.named_outputs(job, self.adapter.build(job.settings())(inputs, weights))
        done = Computed(outputs, weight_map)
        drawn = {n: self.tensor(a, job.dtype) for n, a in self.native_cotangents(job).items()}
        for cotangent in Cotangent if job.gradients else ():
            grads = self.gradients(job, tape, outputs, [floats, trained], drawn if cotangent is Cotangent.DRAWN else {})
            done.input_grads[cotangent], done.weight_grads[cotangent] = grads
        return done

    def gradients(self, job: Job, tape: Any, outputs: Native, leaves: Any, cotangents: Mapping[str, Any]) -> Any:
        """Differentiate; an output without a cotangent gets ones, and a leaf that no output depends on zeros."""
        heads = {n: t for n, t in outputs.items() if n in job.outputs and t.dtype.is_floating}
        weighted = [
            # An output of a wrong shape gets a verdict, so differentiating it must not raise.
            tf.cast(cotangents[n], t.dtype) if n in cotangents and cotangents[n].shape == t.shape else tf.ones_like(t)
            for n, t in heads.items()
        ]
        unconnected = tf.UnconnectedGradients.ZERO
        return tape.gradient(list(heads.values()), leaves, weighted, unconnected_gradients=unconnected)

    def tensors(self, job: Job) -> dict[str, Any]:
        return {name: self.tensor(array, job.dtype) for name, array in self.native_inputs(job).items()}

    def tensor(self, array: Any, dtype: str) -> Any:
        return tf.cast(tf.convert_to_tensor(array), dtype) if is_float(array) else tf.convert_to_tensor(array)

    def to_numpy(self, tensor: Any) -> Tensor:
        wide = tf.cast(tensor, tf.float32) if tensor.dtype in (tf.float16, tf.bfloat16) else tensor
        return Tensor(wide.numpy(), tensor.dtype.name)
