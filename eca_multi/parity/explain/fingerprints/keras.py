"""Keras's fingerprint: Keras's operations on the backend of this process, and that backend's gradients and flags."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import keras
import numpy as np
from keras import ops

from .primitives import Facts, Primitives, Value
from .table import fingerprint

BACKENDS = {"torch": "TorchPrimitives", "tensorflow": "TensorFlowPrimitives", "jax": "JaxPrimitives"}


class KerasPrimitives(Primitives):
    """Channels last on every backend, which is Keras's default."""

    def __init__(self) -> None:
        name = keras.backend.backend()
        self.backend: Primitives = getattr(import_module(f"{__package__}.{name}"), BACKENDS[name])()

    def tensor(self, array: np.ndarray) -> Any:
        return ops.convert_to_tensor(array, array.dtype.name)

    def numpy(self, tensor: Any) -> np.ndarray:
        return np.asarray(ops.convert_to_numpy(tensor))

    def add(self, a: Any, b: Any) -> Any:
        return ops.add(a, b)

    def multiply(self, a: Any, b: Any) -> Any:
        return ops.multiply(a, b)

    def sum(self, x: Any, axis: int) -> Any:
        return ops.sum(x, axis)

    def mean(self, x: Any, axis: int) -> Any:
        return ops.mean(x, axis)

    def matmul(self, a: Any, b: Any) -> Any:
        return ops.matmul(a, b)

    def conv1d(self, x: Any, kernel: Any) -> Any:
        return ops.conv(x, kernel, strides=1, padding="same", data_format="channels_last")

    def sigmoid(self, x: Any) -> Any:
        return ops.sigmoid(x)

    def vjp(self, function: Callable[[Any], Any], at: Any, cotangent: Any) -> Any:
        return self.backend.vjp(function, at, cotangent)

    def graph(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.backend.graph(function)

    def facts(self, sample: Any) -> Facts:
        return {
            **self.backend.facts(sample),
            "version.keras": lambda: keras.__version__,
            "keras.floatx": keras.config.floatx,
            "keras.policy": lambda: keras.config.dtype_policy().name,
        }


def probe() -> dict[str, Value]:
    """Return the fingerprint of Keras on the backend that KERAS_BACKEND chose."""
    return fingerprint(KerasPrimitives())
