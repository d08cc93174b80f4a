"""The oracle's means over the pooled axes, their linear parts and the transposes of these; NumPy in float64.

The parity harness sends errors and magnitudes through them too.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._errors import check_mask
from ._pooling import Pooling

Array = NDArray[np.float64]


def valid_positions(x: Array, axis: int, pooling: Pooling, mask: ArrayLike | None) -> tuple[NDArray[np.bool_], Array]:
    """Return the positions that count, as x's shape with one channel, and their number, at least 1, (N, 1, *kept)."""
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    valid = np.ones(shape, bool)
    if mask is not None:
        mask = np.asarray(mask)
        check_mask(mask.dtype == bool, mask, axis, x.shape)
        valid = np.broadcast_to(mask, shape)
    valid = np.expand_dims(valid, axis)
    return valid, np.maximum(running(total(valid.astype(np.float64), axis, pooling), pooling), 1)


def mean(x: Array, valid: NDArray[np.bool_], count: Array, axis: int, pooling: Pooling) -> Array:
    """Return the mean of x over its valid positions, (N, C, *kept)."""
    return running(total(np.where(valid, x, 0.0), axis, pooling), pooling) / count


def total(a: Array, axis: int, pooling: Pooling) -> Array:
    """Sum over the pooled axes but the causal one; channels go to axis 1: (N, C, *kept)."""
    sums: Array = np.moveaxis(a, axis, 1).sum(tuple(i + 1 if i < axis else i for i in pooling.whole))
    return sums


def running(a: Array, pooling: Pooling) -> Array:
    """Sum (N, C, *kept) up to each position of the causal axis, where there is one."""
    return a if pooling.running is None else a.cumsum(pooling.running)


def running_back(a: Array, pooling: Pooling) -> Array:
    """Apply the transpose of `running`: sum from each position to the end."""
    if pooling.running is None:
        return a
    return np.flip(np.flip(a, pooling.running).cumsum(pooling.running), pooling.running)


def expand(a: Array, axis: int, pooling: Pooling) -> Array:
    """Give (N, C, *kept) the rank of x, with the channels at `axis`."""
    missing = sorted(i + 1 if i < axis else i for i in pooling.whole)  # in the order batch, channels, the other axes
    return np.moveaxis(np.expand_dims(a, missing), 1, axis)


def without_bad_padding(x: Array, valid: NDArray[np.bool_]) -> Array:
    """Return x with 0 at each position that is neither valid nor finite, as the gradient of the gate sums it."""
    return np.where(valid | np.isfinite(x), x, 0.0)
