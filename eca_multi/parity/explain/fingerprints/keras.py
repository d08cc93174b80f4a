"""Keras's fingerprint: Keras's operations on the backend of this process, and that backend's gradients and flags."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import keras
import numpy as np
from keras import ops

from .primitives import Facts, Primitives


class Framework(Primitives):
    """Channels last on every backend, which is Keras's default."""

    def __init__(self) -> None:
        self.backend: Primitives = import_module(f"{__package__}.{keras.backend.backend()}").Framework()

    def tensor(self, array: np.ndarray) -> Any:
        return ops.convert_to_tensor(array, array.dtype.name)

    def numpy(self, tensor: Any) -> np.ndarray:
        return np.asarray(ops.convert_to_numpy(tensor))

    add = staticmethod(ops.add)
    multiply = staticmethod(ops.multiply)
    sum = staticmethod(ops.sum)
    mean = staticmethod(ops.mean)
    matmul = staticmethod(ops.matmul)
    sigmoid = staticmethod(ops.sigmoid)

    def conv1d(self, x: Any, kernel: Any) -> Any:
        return ops.conv(x, kernel, strides=1, padding="same", data_format="channels_last")

    def window_mean(self, x: Any, size: int) -> Any:
        return ops.average_pool(x, size, strides=1, padding="valid", data_format="channels_last")

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
