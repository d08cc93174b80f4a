"""Keras's own optimizers, step by step, with the textbook's states given and returned."""

import keras
import numpy as np

from eca_multi.parity.define.optimizers import ADAM, MOMENTUM, Arrays, NativeOptimizer


def optimizer(kind: str) -> NativeOptimizer:
    def update(weights: Arrays, grads: Arrays, slots: Arrays, step: int, rate: float) -> tuple[Arrays, Arrays]:
        variables = {name: keras.Variable(w, dtype="float32") for name, w in weights.items()}
        if kind == "adam":
            native = keras.optimizers.Adam(float(rate), *ADAM)
        else:
            native = keras.optimizers.SGD(float(rate), momentum=MOMENTUM if kind == "momentum" else 0.0)
        native.build(list(variables.values()))
        native.iterations.assign(step - 1)
        # After the number of steps and the rate: for each weight its momentum, and Adam's velocity.
        kept, letters = iter(native.variables[2:]), {"sgd": "", "momentum": "m", "adam": "mv"}[kind]
        states = {f"{s}.{name}": next(kept) for name in weights for s in letters}
        scale = -rate if kind == "momentum" else np.float32(1)  # SGD keeps -rate * m
        for name, state in states.items():
            state.assign(scale * slots.get(name, np.zeros(state.shape, np.float32)))
        native.apply([keras.ops.convert_to_tensor(g) for g in grads.values()], list(variables.values()))
        after = {name: keras.ops.convert_to_numpy(state) / scale for name, state in states.items()}
        return {name: keras.ops.convert_to_numpy(variable.value) for name, variable in variables.items()}, after

    if kind == "adam":
        return NativeOptimizer(
            update,
            "keras.optimizers.Adam, whose epsilon stands beside the uncorrected root, as epsilon / sqrt(1 - 0.999^t) "
            "would beside the corrected one, and which takes 1 - 0.999^t in float32: its steps are off by up to 1e-5",
        )
    return NativeOptimizer(update, "keras.optimizers.SGD")
