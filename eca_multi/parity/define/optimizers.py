"""The harness's own update rules in NumPy: one rule for all frameworks, so that a trajectory compares gradients alone.

The reference updates in float64 and a runner in float32; then each weight is rounded to its dtype. The rules are the
textbook's: momentum m = 0.9 m + g, w -= rate m; Adam with bias correction and eps 1e-8 outside of the root.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]
Update = Callable[[Arrays, Arrays, Arrays, int, float], tuple[Arrays, Arrays]]

MOMENTUM = 0.9
ADAM = 0.9, 0.999, 1e-8


def _sgd(weights: Arrays, grads: Arrays, slots: Arrays, step: int, rate: float) -> tuple[Arrays, Arrays]:
    return {name: w - rate * grads[name] for name, w in weights.items()}, {}


def _momentum(weights: Arrays, grads: Arrays, slots: Arrays, step: int, rate: float) -> tuple[Arrays, Arrays]:
    new = {f"m.{n}": MOMENTUM * slots.get(f"m.{n}", np.zeros_like(w)) + grads[n] for n, w in weights.items()}
    return {name: w - rate * new[f"m.{name}"] for name, w in weights.items()}, new


def _adam(weights: Arrays, grads: Arrays, slots: Arrays, step: int, rate: float) -> tuple[Arrays, Arrays]:
    first, second, eps = ADAM
    new: Arrays = {}
    updated: Arrays = {}
    for name, w in weights.items():
        g = grads[name]
        m = first * slots.get(f"m.{name}", np.zeros_like(w)) + (1 - first) * g
        v = second * slots.get(f"v.{name}", np.zeros_like(w)) + (1 - second) * g * g
        new |= {f"m.{name}": m, f"v.{name}": v}
        updated[name] = w - rate * (m / (1 - first**step)) / (np.sqrt(v / (1 - second**step)) + eps)
    return updated, new


@dataclass(frozen=True)
class NativeOptimizer:
    """A framework's own optimizer as an update rule of float32 arrays; `note` gives its name and its deviations."""

    update: Update
    note: str


OPTIMIZERS: dict[str, Update] = {"sgd": _sgd, "momentum": _momentum, "adam": _adam}
