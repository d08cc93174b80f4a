"""Faults in reading weights and inputs: changed arrays of a job, and the way back of the gradients.

A layer that reads its kernel backwards is the right layer with a reversed kernel, whose gradient is reversed again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from eca_multi.parity.define.job import Job, is_float
from eca_multi.parity.define.sources import SIZES
from eca_multi.parity.define.tensor import Cotangent, Kind, Outputs, Quantity, Tensor

Array = np.ndarray
Way = Callable[[Array], Array]


@dataclass(frozen=True)
class Changed:
    """A job with other arrays, and the way back for each of its results."""

    job: Job
    ways: Mapping[Quantity, Way]

    def back(self, results: Outputs) -> Outputs:
        return {
            quantity: Tensor(self.ways[quantity](tensor.values), tensor.dtype) if quantity in self.ways else tensor
            for quantity, tensor in results.items()
        }


Change = Callable[[Job], Changed | None]


def _weights(job: Job, choose: Callable[[Array], tuple[Array, Way] | None]) -> Changed | None:
    """Change the weights for which `choose` returns another array and the way back of the gradient."""
    choices = {name: choose(array) for name, array in job.weights.items()}
    chosen = {name: choice for name, choice in choices.items() if choice is not None}
    if not chosen:
        return None
    weights = {**job.weights, **{name: array for name, (array, _) in chosen.items()}}
    ways = _gradients(Kind.WEIGHT_GRADIENT, {name: way for name, (_, way) in chosen.items()})
    return Changed(replace(job, weights=weights), ways)


def _gradients(kind: Kind, ways: Mapping[str, Way]) -> dict[Quantity, Way]:
    return {Quantity(kind, name, cotangent): way for name, way in ways.items() for cotangent in Cotangent}


def kernel_flip(job: Job) -> Changed | None:
    """Reverse each weight along its last axis that is longer than 1."""

    def flipped(array: Array) -> tuple[Array, Way] | None:
        axes = [axis for axis, size in enumerate(array.shape) if size > 1]
        if not axes:
            return None
        return np.flip(array, axes[-1]), lambda gradient: np.flip(gradient, axes[-1])

    return _weights(job, flipped)


def transposed_weight(job: Job) -> Changed | None:
    """Exchange the first two axes of each weight if they are equal; else reverse all axes, in the old shape."""

    def transposed(array: Array) -> tuple[Array, Way] | None:
        if sum(size > 1 for size in array.shape) < 2:
            return None
        if array.shape[0] == array.shape[1]:
            return array.swapaxes(0, 1), lambda gradient: gradient.swapaxes(0, 1)
        shape = array.shape
        return array.T.reshape(shape), lambda gradient: gradient.reshape(shape[::-1]).T

    return _weights(job, transposed)


def delta_kernel(job: Job) -> Changed | None:
    """Replace each kernel by 1 at its centre, which skips a convolution written as shifts and sums.

    A kernel is a weight whose last axis has a size of the configuration that no axis of the data has.
    """
    data = {*SIZES, *(axis for axes in job.axes.values() for axis in axes)}
    sizes = {size for name, size in job.config.items() if name not in data and type(size) is int and size > 1}

    def delta(array: Array) -> tuple[Array, Way] | None:
        if not is_float(array) or array.ndim == 0 or array.shape[-1] not in sizes:
            return None
        kernel = np.zeros_like(array)
        kernel[..., array.shape[-1] // 2] = 1
        return kernel, np.zeros_like

    return _weights(job, delta)


def exchanged_axes(job: Job) -> Changed | None:
    """Confuse the last two axes of each input, and put outputs of its shape right again."""
    shapes = {name: array.shape for name, array in job.inputs.items() if is_float(array) and _axes(array.shape)}
    if not shapes:
        return None
    inputs = {name: _confused(array) if name in shapes else array for name, array in job.inputs.items()}
    ways = _gradients(Kind.INPUT_GRADIENT, dict.fromkeys(shapes, _restored))
    of_inputs = set(shapes.values())
    outputs = [n for n in job.outputs if n in job.cotangents and job.cotangents[n].shape in of_inputs]
    # The cotangent goes the same way as its output.
    cotangents = {n: _confused(array) if n in outputs else array for n, array in job.cotangents.items()}
    return Changed(
        replace(job, inputs=inputs, cotangents=cotangents),
        {**ways, **{Quantity(Kind.OUTPUT, name): _restored for name in outputs}},
    )


def _axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The last two axes that are longer than 1."""
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    return (axes[-2], axes[-1]) if len(axes) > 1 else None


def _confused(array: Array) -> Array:
    axes = _axes(array.shape)
    return array if axes is None else array.swapaxes(*axes).reshape(array.shape)


def _restored(array: Array) -> Array:
    axes = _axes(array.shape)
    if axes is None:
        return array
    shape = list(array.shape)
    shape[axes[0]], shape[axes[1]] = shape[axes[1]], shape[axes[0]]
    return array.reshape(shape).swapaxes(*axes)
