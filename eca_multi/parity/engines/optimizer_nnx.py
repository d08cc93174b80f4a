"""`nnx.Optimizer` around an optimizer of Optax, step by step, with the textbook's states given and returned."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from eca_multi.parity.define.optimizers import Arrays, NativeOptimizer

from .optimizer_optax import NOTES, SLOTS, transformation


def optimizer(kind: str) -> NativeOptimizer:
    names = {key: slot for slot, key in SLOTS[kind].items()}

    def update(weights: Arrays, grads: Arrays, slots: Arrays, step: int, rate: float) -> tuple[Arrays, Arrays]:
        model = nnx.Dict({name: nnx.Param(jnp.asarray(w)) for name, w in weights.items()})
        native = nnx.Optimizer(model, transformation(kind, rate), wrt=nnx.Param)
        for keys, variable in nnx.to_flat_state(nnx.state(native)):
            is_count = keys[-1] in ("count", "step")
            value = step - 1 if is_count else slots.get(f"{names.get(keys[-2])}.{keys[-1]}")
            if value is not None:
                nnx.update(native, nnx.from_flat_state([(keys, variable.replace(jnp.asarray(value, variable.dtype)))]))
        gradients = nnx.state(nnx.Dict({name: nnx.Param(jnp.asarray(g)) for name, g in grads.items()}), nnx.Param)
        native.update(model, gradients)
        after = {
            f"{names[keys[-2]]}.{keys[-1]}": np.asarray(variable.get_value())
            for keys, variable in nnx.to_flat_state(nnx.state(native))
            if keys[-1] in weights
        }
        return {name: np.asarray(model[name].get_value()) for name in weights}, after

    return NativeOptimizer(update, f"nnx.Optimizer of {NOTES[kind]}")
