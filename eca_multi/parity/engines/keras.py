"""The engines for Keras 3, one per backend: Keras has no gradient function of its own, so each backend's is used.

The engine calls the layer as a user does, `layer(x)`, so that a run compares its input casting too; on JAX a
StatelessScope lends it the weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import keras
import numpy as np
from keras import ops

from eca_multi._files.scratch import scratch_folder
from eca_multi.parity.define.adapters import Adapter
from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.maps import WeightMap
from eca_multi.parity.define.tensor import Tensor

from .base import Native, no_sublayer, tap_output
from .weight_map import native_weights


def _called(layer: Callable[[Native], Any], inputs: Native) -> None:
    layer({name: ops.convert_to_tensor(array) for name, array in inputs.items()})


def build(
    adapter: Adapter, job: Job, inputs: Native, call: Callable[[Callable[[Native], Any], Native], object] = _called
) -> Any:
    """Build the layer under the job's dtype policy; `call`, which calls it on the inputs, makes its weights."""
    keras.config.set_dtype_policy(job.dtype if job.dtype == job.parameters else f"mixed_{job.dtype}")
    settings = job.settings()
    with _orthogonal_in_float32():
        layer = adapter.build(settings)
        call(lambda tensors: adapter.call(layer, tensors, settings), inputs)
    for name, path in adapter.taps.items():  # some layers make their sub-layers at their first call
        if name in job.taps:
            _tap_output(_sublayer(adapter, layer, path), name)
    return layer


@contextmanager
def _orthogonal_in_float32() -> Iterator[None]:
    """Let recurrent layers draw their weights in half precision, in which JAX has no QR decomposition."""
    orthogonal = keras.initializers.Orthogonal
    call = orthogonal.__call__

    def in_float32(self: Any, shape: Any, dtype: Any = None) -> Any:
        return ops.cast(call(self, shape, dtype="float32"), dtype or keras.config.floatx())

    orthogonal.__call__ = in_float32
    try:
        yield
    finally:
        orthogonal.__call__ = call


def variables(layer: Any) -> dict[str, Any]:
    """Return the layer's variables by their path within it; the seeds of random layers are no weights."""
    by_path: dict[str, Any] = {}
    for variable in layer.variables:
        path = str(variable.path).removeprefix(f"{layer.path or layer.name}/")
        if path in by_path:  # one would hide the other, which no check would see
            raise SpecError(
                f"each variable of the layer {layer.name} must have a path of its own. Received: {path!r} twice. Give "
                "its sub-layers names of their own."
            )
        if "seed_generator" not in variable.path:
            by_path[path] = variable
    return by_path


def assign(job: Job, weight_map: WeightMap, variables: Native) -> None:
    """Assign the job's values to the variables; a call may have changed a state."""
    for name, array in native_weights(job, weight_map).items():
        variables[name].assign(array)


def trained(variables: dict[str, Any]) -> list[str]:
    return [name for name, variable in variables.items() if variable.trainable]


def to_numpy(tensor: Any) -> Tensor:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    wide = ops.cast(tensor, "float32") if dtype in ("float16", "bfloat16") else tensor
    return Tensor(np.asarray(ops.convert_to_numpy(wide)), dtype)


def save_and_load(layer: Any, fresh: Any) -> Native:
    """Save to and load from a .weights.h5 file, from within a model, the way in which users save a layer."""
    with scratch_folder("eca-roundtrip") as folder:
        path = folder / "layer.weights.h5"
        _Holder(layer).save_weights(path)
        _Holder(fresh).load_weights(path)
    return {name: variable.value for name, variable in variables(fresh).items()}


class _Holder(keras.Model):
    """The smallest model around a layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.held = layer
        self.built = True


def _sublayer(adapter: Adapter, layer: Any, path: str) -> Any:
    for key in path.split("/"):
        inner = {part.name: part for part in getattr(layer, "layers", ())}
        inner |= {**vars(layer), **vars(layer).get("_modules", {})}  # PyTorch keeps sub-modules in `_modules`
        part = getattr(layer, key, None) or inner.get(key)
        if not isinstance(part, keras.layers.Layer):
            raise no_sublayer(adapter, path, [n for n, p in inner.items() if isinstance(p, keras.layers.Layer)])
        layer = part
    return layer


def _tap_output(layer: Any, name: str) -> None:
    call = layer.call

    def tapped(*arguments: Any, **keywords: Any) -> Any:
        return tap_output(name, call(*arguments, **keywords))

    layer.call = tapped


def engine(adapter: Adapter) -> Any:
    """Return the engine for the backend of this process."""
    backend = keras.backend.backend()
    return import_module(f"eca_multi.parity.engines.keras_{backend}").KerasEngine(adapter)
