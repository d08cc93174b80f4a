"""Optax's optimizers, which JAX and Flax use, step by step, with the textbook's states given and returned."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from eca_multi.parity.define.optimizers import ADAM, MOMENTUM, Arrays, NativeOptimizer

from .base import Unsupported

try:
    import optax
except ImportError as error:
    raise Unsupported("optax is not installed, which has JAX's optimizers; pip install optax") from error

SLOTS = {"sgd": {}, "momentum": {"m": "trace"}, "adam": {"m": "mu", "v": "nu"}}
NOTES = {
    "sgd": "optax.sgd",
    "momentum": "optax.sgd",
    "adam": "optax.adam, which takes 1 - 0.999^t in float32: its steps are off by up to 1e-5",
}


def transformation(kind: str, rate: float) -> Any:
    if kind == "adam":
        return optax.adam(float(rate), *ADAM)
    return optax.sgd(float(rate), momentum=MOMENTUM if kind == "momentum" else None)


def optimizer(kind: str) -> NativeOptimizer:
    def update(weights: Arrays, grads: Arrays, slots: Arrays, step: int, rate: float) -> tuple[Arrays, Arrays]:
        native = transformation(kind, rate)
        parameters, gradients = ({n: jnp.asarray(a) for n, a in arrays.items()} for arrays in (weights, grads))
        start: dict[str, Any] = {"count": jnp.int32(step - 1)} if kind == "adam" else {}
        for slot, key in SLOTS[kind].items():
            start[key] = {n: jnp.asarray(slots.get(f"{slot}.{n}", 0 * g)) for n, g in grads.items()}
        state = optax.tree.set(native.init(parameters), **start)
        changes, state = native.update(gradients, state, parameters)
        new = optax.apply_updates(parameters, changes)
        after = {f"{s}.{n}": np.asarray(a) for s, k in SLOTS[kind].items() for n, a in optax.tree.get(state, k).items()}
        return {name: np.asarray(array) for name, array in new.items()}, after

    return NativeOptimizer(update, NOTES[kind])
