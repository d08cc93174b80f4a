"""What a run on other inputs moves: other numbers at some positions, and what differs beyond rounding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
ROUNDING = 64  # units in the last place of the largest value: by tiles or by FFT, a sum rounds its neighbours together
SEED = 16


def steps(length: int) -> list[int]:
    """Return the positions from which on inputs are changed: the first that leaves one, the last, one between.

    The first is off the grid of every network that works on patches or strides.

    Example:
        >>> from eca_multi.surgery.moves import steps
        >>> steps(2)
        [1]
    """
    between = int(np.random.default_rng(SEED).integers(1, length))
    return list(dict.fromkeys((1, length - 1, between)))


def changed(inputs: Sequence[Array], number: int, axis: int, where: slice, seed: int) -> list[Array]:
    """Return the inputs with other numbers at some positions: of the same size, or of those that occur (indices)."""
    rng, x = np.random.default_rng((SEED, seed)), inputs[number].copy()
    index = (slice(None),) * axis + (where,)
    part = x[index]
    if x.dtype.kind == "f":
        finite = x[np.isfinite(x)]
        new = part + rng.normal(size=part.shape) * (float(np.std(finite, dtype=np.float64)) if finite.size else 1.0)
        new = new if np.any(new != part) else part + rng.normal(size=part.shape)  # zeros, or one value everywhere
    else:
        values = np.unique(x)
        new = values[(np.searchsorted(values, part) + 1 + rng.integers(max(len(values) - 1, 1))) % len(values)]
    x[index] = new.astype(x.dtype)
    return [*inputs[:number], x, *inputs[number + 1 :]]


def noise_like(y: Array) -> Array:
    """Return random numbers of an array's shape and size."""
    size = float(np.nan_to_num(np.std(y, dtype=np.float64), posinf=1.0)) or 1.0
    return np.asarray(np.random.default_rng(SEED).normal(size=y.shape) * size, y.dtype)


def tolerance(y: Array, eps: float = 0.0) -> float:
    """Return what rounding may move: ROUNDING units of the array's type, or of the coarser one that `eps` is of."""
    finite = np.abs(y[np.isfinite(y)]) if y.dtype.kind == "f" else np.zeros(0)
    return ROUNDING * max(float(np.finfo(y.dtype).eps), eps) * float(finite.max()) if finite.size else 0.0


def apart(y: Array, other: Array) -> Array:
    """Return by how much each value moved, in float64; infinity where one of the two alone is NaN or infinite."""
    with np.errstate(invalid="ignore"):
        distance = np.abs(np.subtract(y, other, dtype=np.float64))
        same = (y == other) | (np.isnan(y) & np.isnan(other)) if y.dtype.kind == "f" else y == other
    result: Array = np.where(same, 0.0, np.nan_to_num(distance, nan=np.inf, posinf=np.inf))
    return result


def along(y: Array, other: Array, axis: int) -> Array:
    """Return the most that anything moved at each position along an axis."""
    if y.shape != other.shape:
        return np.full(y.shape[axis], np.inf)
    distance: Array = apart(y, other).max(axis=tuple(other for other in range(y.ndim) if other != axis))
    return distance
