"""What travels between the harness and a worker: a job to compute, and the outputs of it.

Both sides import this file and nothing of each other. Arrays are channels first and float32, which holds every float16
and bfloat16 value exactly; the dtype to compute in travels as a name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tensor:
    """A result: its values, and the name of the dtype that the framework gave it."""

    values: np.ndarray
    dtype: str


TENSORS = ("y", "dx", "dw")
Outputs = dict[str, Tensor]  # one for each name in TENSORS


@dataclass(frozen=True)
class Job:
    """One case in one dtype. `weight` is canonical: (k,), or (C, k) for one kernel per channel."""

    case: str
    dtype: str
    options: Mapping[str, Any]  # padding and gate, where they are not the defaults
    other_axis: bool
    arrays: Mapping[str, np.ndarray]  # x, weight, cotangent, perhaps mask

    @property
    def channels(self) -> int:
        return int(self.arrays["x"].shape[1])

    @property
    def kernel_size(self) -> int:
        return int(self.arrays["weight"].shape[-1])

    @property
    def shared(self) -> bool:
        return self.arrays["weight"].ndim == 1

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a compiler specialises on: two jobs that agree here differ in their data alone."""
        shapes = tuple((name, array.shape) for name, array in sorted(self.arrays.items()))
        return (self.dtype, shapes, tuple(sorted(self.options.items())), self.other_axis)


def move_channels(array: np.ndarray, axis: int) -> np.ndarray:
    """Take a channels-first array to a layout with the channels at `axis`."""
    return np.moveaxis(array, 1, axis)


def restore_channels(array: np.ndarray, axis: int) -> np.ndarray:
    """The way back."""
    return np.moveaxis(array, axis, 1)
