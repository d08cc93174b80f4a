"""The sources of a case's arrays: axes, and a generator of values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .axes import Axes, parse

Rng = np.random.Generator
Arrays = dict[str, np.ndarray]

SIZES = {"N": 2, "C": 12, "H": 7, "W": 5, "D": 3, "L": 11}


@dataclass(frozen=True)
class Draw:
    """Axes and a generator of values: `make(rng, shape)` returns an array of that shape."""

    axes: str | Sequence[str | int]
    make: Callable[[Rng, tuple[int, ...]], np.ndarray]


def normal(axes: str | Sequence[str | int], scale: float = 1.0, mean: float = 0.0) -> Draw:
    """Draw from a normal distribution."""
    return Draw(axes, lambda rng, shape: rng.normal(mean, scale, shape))


def uniform(axes: str | Sequence[str | int], low: float, high: float) -> Draw:
    """Draw evenly from [low, high): variances, scales, probabilities."""
    return Draw(axes, lambda rng, shape: rng.uniform(low, high, shape))


def integers(axes: str | Sequence[str | int], low: int, high: int) -> Draw:
    """Draw integers from [low, high): token numbers, labels."""
    return Draw(axes, lambda rng, shape: rng.integers(low, high, shape, dtype=np.int32))


def booleans(axes: str | Sequence[str | int], probability: float = 0.5) -> Draw:
    """Draw True with a probability: masks."""
    return Draw(axes, lambda rng, shape: rng.random(shape) < probability)


Source = str | Sequence[str | int] | Draw


def axes_of(source: Source) -> Axes:
    """Return the axes that a specification gives an array."""
    return parse(source.axes if isinstance(source, Draw) else source)
