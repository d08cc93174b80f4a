"""What the Keras models of all backends share: variables by path, copies in another dtype, and the calls of layers."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.structures import host
from eca_multi.parity.engines.keras import variables

from .calls import Recorder
from .model import Arrays, arguments_of, signature_of

_WRITE_CONFIG = "Write a get_config that returns the arguments of its constructor."
_FLOATS = ("float16", "bfloat16", "float32", "float64")


class KerasLayer:
    """A Keras layer or model, called as in inference unless `in_mode` says otherwise.

    Its paths are those of its variables, without its own name. In a copy, sub-layers without a name of their own get
    other names: there the paths are those of the layer that the caller gave, `named_by`.
    """

    def __init__(self, layer: Any, is_training: bool = False, named_by: Any = None) -> None:
        self.layer, self.is_training = layer, is_training
        self.named_by = layer if named_by is None else named_by
        self._copies: dict[str, Any] = {}
        if not layer.built:
            raise SpecError(f"the layer {layer.name!r} must be built. Received: one without weights. Call it once.")

    @property
    def framework(self) -> str:
        return f"keras-{keras.backend.backend()}"

    @property
    def name(self) -> str:
        return f"{type(self.layer).__name__} ({self.framework})"

    def weights(self) -> dict[str, np.ndarray]:
        return {path: _values(variable) for path, variable in self.variables(self.layer).items()}

    def variables(self, layer: Any) -> dict[str, Any]:
        """Return the variables of the layer or of its copy by their paths in the caller's layer."""
        return dict(zip(variables(self.named_by), variables(layer).values(), strict=True))

    def trained(self) -> frozenset[str]:
        return frozenset(path for path, variable in self.variables(self.layer).items() if variable.trainable)

    def with_weights(self, weights: Arrays) -> Any:
        layer = _copy(self.layer, self.layer.compute_dtype, "to hold other weights", _WRITE_CONFIG)
        own = self.variables(layer)
        for path, array in weights.items():
            own[path].assign(array)
        return type(self)(layer, self.is_training, self.named_by)

    @property
    def takes(self) -> str:
        return signature_of(self.layer.call)

    def in_mode(self, training: bool) -> Any:
        return type(self)(self.layer, training, self.named_by)

    @property
    def training(self) -> str:
        return "training=True" if self.is_training else ""

    def call(self, layer: Any, inputs: Any) -> Any:
        return call(layer, inputs, self.is_training)

    def heard(self, layer: Any, recorder: Recorder | None) -> AbstractContextManager[None]:
        """Let a recorder hear the calls of all layers inside this one, and its own."""
        return _heard(self.named_by, layer, recorder)

    def layer_in(self, dtype: str) -> Any:
        """Return the layer itself where it computes in the dtype, and else a copy from its configuration."""
        held = {v.dtype for v in variables(self.layer).values() if v.dtype in _FLOATS}
        if self.layer.compute_dtype == dtype and held <= {dtype}:
            return self.layer
        if dtype not in self._copies:
            remedy = f"{_WRITE_CONFIG} Or give one that was built in {dtype}, or a torch reference."
            self._copies[dtype] = _copy(self.layer, dtype, f"to compute in {dtype}", remedy)
        return self._copies[dtype]


def call(layer: Any, inputs: Any, is_training: bool) -> Any:
    """Call a layer; a functional model takes the inputs that it was made of as one structure."""
    arguments, keywords = arguments_of(inputs)
    if len(getattr(layer, "inputs", None) or ()) > 1 and isinstance(inputs, (tuple, list, Mapping)):
        arguments, keywords = ([*inputs] if isinstance(inputs, tuple) else inputs,), {}
    return layer(*arguments, **({"training": True} if is_training else {}), **keywords)


@contextmanager
def _heard(named_by: Any, layer: Any, recorder: Recorder | None) -> Iterator[None]:
    if recorder is None:
        yield
        return
    paths = [path for path, _ in _inside("", named_by, set())]
    parts = dict(zip(paths, (part for _, part in _inside("", layer, set())), strict=True))
    own = {path: vars(part).get("call") for path, part in parts.items()}
    for path, part in parts.items():
        part.call = partial(_called, recorder, path, type(part).__name__, part.call)
    try:
        yield
    finally:
        for path, part in parts.items():
            del vars(part)["call"]
            if own[path] is not None:
                part.call = own[path]


def _called(recorder: Recorder, path: str, kind: str, function: Any, *arguments: Any, **keywords: Any) -> Any:
    return recorder.call(path, kind, function, arguments, keywords)


def _inside(path: str, layer: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(layer) in seen:
        return
    seen.add(id(layer))
    # Private: `layers` is there on models alone, and a layer's sub-layers may lie in lists and dicts of its own.
    for part in layer._flatten_layers(include_self=False, recursive=False):
        yield from _inside(f"{path}/{part.name}" if path else part.name, part, seen)
    yield path, layer


def _copy(layer: Any, dtype: str, purpose: str, remedy: str) -> Any:
    """Make the layer anew from its configuration, with floats of a dtype, and the same values in its variables."""
    custom = {type(part).__name__: type(part) for _, part in _inside("", layer, set())}
    try:
        config = _in_dtype(keras.saving.serialize_keras_object(layer), dtype)
        with _policy(dtype):  # which sub-layers take that a layer makes itself
            fresh = keras.saving.deserialize_keras_object(config, custom_objects=custom, safe_mode=False)
        for old, new in zip(layer.variables, fresh.variables, strict=True):
            new.assign(_values(old).astype(np.float64) if old.dtype in _FLOATS else _values(old))
    except Exception as error:
        raise SpecError(
            f"the Keras layer {layer.name!r} must be made anew {purpose}, from get_config and build. It raised "
            f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]} {remedy}"
        ) from error
    return fresh


@contextmanager
def _policy(dtype: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _in_dtype(config: Any, dtype: str) -> Any:
    """Return a configuration with another dtype in place of each floating one.

    Initializers become zeros, since the values are copied, and no framework has an orthogonal one in half precision.
    """
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": dtype}}
        zeros = {key: "zeros" for key, value in config.items() if key.endswith("_initializer") and value is not None}
        rest = {
            key: dtype if key == "dtype" and value in _FLOATS else _in_dtype(value, dtype)
            for key, value in config.items()
        }
        return {**rest, **zeros}
    return [_in_dtype(item, dtype) for item in config] if isinstance(config, list) else config


def _values(variable: Any) -> np.ndarray:
    return np.array(host(keras.ops.convert_to_numpy(variable.value)))
