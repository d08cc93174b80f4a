"""TensorFlow functions of (inputs, weights), in this process."""

from typing import Any

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.job import Job, is_float
from eca_multi.parity.define.tensor import Cotangent, Tensor

from .base import Computed, Engine, Native
from .weight_map import function_weights, match


def backend_of(name: str) -> str:
    """Return the framework of a function's arrays, from the function's name; "keras" is the backend of this process."""
    if name in ("tf", "tensorflow", "keras-tensorflow") or name.startswith(("tf-", "tensorflow-")):
        return "tensorflow"
    if name.startswith("keras"):
        import keras

        return str(keras.backend.backend())
    if name.startswith(("linen", "nnx", "flax")):
        return "jax"
    raise SpecError(
        f"functions must have names that start with torch, jax, tensorflow, keras or numpy. Received: {name!r}."
    )


class TensorFlowFunctions(Engine):
    distributions = ("tensorflow",)

    def compute(self, job: Job) -> Computed:
        import tensorflow as tf

        def tensor(array: Any, dtype: str) -> Any:
            return tf.cast(tf.convert_to_tensor(array), dtype) if is_float(array) else tf.convert_to_tensor(array)

        native = function_weights(self.adapter, job)
        slots = match(self.adapter, job, native)
        weights: Native = {n: tensor(a, job.parameters) for n, a in native.items()}
        inputs: Native = {n: tensor(a, job.dtype) for n, a in self.native_inputs(job).items()}
        floats = {n: t for n, t in inputs.items() if t.dtype.is_floating}
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([*floats.values(), *weights.values()])
            outputs = self.named_outputs(job, self.adapter.build(job.settings())(inputs, weights))
        done = Computed(outputs, slots)
        heads = {n: t for n, t in outputs.items() if n in job.cotangents and t.dtype.is_floating}
        for cotangent in Cotangent if job.gradients else ():
            cotangents = [
                tf.ones_like(t) if cotangent is Cotangent.ONES else tensor(job.cotangents[n], t.dtype.name)
                for n, t in heads.items()
            ]
            by_input, by_weight = tape.gradient(
                list(heads.values()), [floats, weights], cotangents, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            done.input_grads[cotangent], done.weight_grads[cotangent] = by_input, by_weight
        return done

    def to_numpy(self, tensor: Any) -> Tensor:
        import tensorflow as tf

        wide = tf.cast(tensor, tf.float32) if tensor.dtype in (tf.float16, tf.bfloat16) else tensor
        return Tensor(wide.numpy(), tensor.dtype.name)
