"""What a framework supplies for its fingerprint, and the shapes that probes share. This module imports no framework."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

Tensor = Any
Value = str | int | float | bool
Facts = Mapping[str, Callable[[], Value]]

DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
HALVES = ("float16", "bfloat16")


class NotApplicable(Exception):
    """The framework lacks what a probe measures: NumPy has no gradients."""


class Primitives(ABC):
    """The operations of a framework, on its own tensors: those that a user's layer would run.

    Attributes:
        channel_axis: Where the framework has the channels of a map: 1 or -1.
    """

    channel_axis = -1

    @abstractmethod
    def tensor(self, array: np.ndarray) -> Tensor:
        """Take an array to the framework, in the array's dtype and without changing a bit."""

    @abstractmethod
    def numpy(self, tensor: Tensor) -> np.ndarray:
        """Take a tensor back, in its own dtype or a wider one."""

    # Operators and methods that most frameworks' tensors have.

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def sum(self, x: Tensor, axis: int) -> Tensor:
        return x.sum(axis)

    def mean(self, x: Tensor, axis: int) -> Tensor:
        return x.mean(axis)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    @abstractmethod
    def conv1d(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Correlate (N, L, 1), or (N, 1, L) where channel_axis is 1, with (k, 1, 1): stride 1, zero padding to L."""

    sigmoid: Callable[[Tensor], Tensor]

    def layer_norm(self, x: Tensor, bias: Tensor) -> Tensor:
        """Normalise (N, C) along C and add a bias; a framework without one fused operation for that has no probe."""
        raise NotApplicable

    def window_mean(self, x: Tensor, size: int) -> Tensor:
        """Average a map of one channel, laid out as in `conv1d`, over its windows of a size: stride 1, no padding."""
        raise NotApplicable

    @abstractmethod
    def vjp(self, function: Callable[[Tensor], Tensor], at: Tensor, cotangent: Tensor) -> Tensor:
        """Return the gradient of sum(cotangent * function(x)) at x = `at`."""

    def graph(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Compile a function where the framework's runners compile; return any other unchanged."""
        return function

    @abstractmethod
    def facts(self, sample: Tensor) -> Facts:
        """Return the probes that cannot be measured, by their names in `TABLE`; `sample` is a tensor on the device."""


def wide(p: Primitives, tensor: Tensor) -> np.ndarray:
    return p.numpy(tensor).astype(np.float64)


# Probes share shapes where they can: XLA compiles a program for each, which is most of the time it takes.
SIGNAL = (8, 128, 1)
FACTORS = ((8, 512), (512, 64))


def seeded() -> np.random.Generator:
    return np.random.default_rng(0)


def channels_native(p: Primitives, array: np.ndarray) -> np.ndarray:
    """Move the channels, in a fresh copy: torch chooses its convolution by strides, even of an axis of length one."""
    return np.moveaxis(array, -1, p.channel_axis).copy(order="C")


def channels_last(p: Primitives, array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, p.channel_axis, -1)


def convolve(p: Primitives, x: np.ndarray, kernel: np.ndarray, dtype: str) -> Tensor:
    native = p.tensor(channels_native(p, x.astype(DTYPES[dtype])))
    return p.conv1d(native, p.tensor(kernel.reshape(-1, 1, 1).astype(DTYPES[dtype])))
