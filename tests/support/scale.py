"""A layer of NumPy alone, and the same layer with one fault each.

The workers load this file by its path. It imports no framework and no command line, so a run takes a second.
"""
# ruff: noqa: RUF012  (an adapter declares its weight map as a class attribute, as users do)

import os
from dataclasses import replace

import numpy as np

from eca_multi.parity import KerasAdapter, Manual, NumpyAdapter, Spec


class Scale(NumpyAdapter):
    """The right layer, computed in another way than the reference."""

    def build(self, config):
        return lambda inputs, weights: inputs["x"] / (1 / weights["s"])


class Truth(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["s"]


class Off(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["s"] * np.float32(1.01)


class NoBuild(NumpyAdapter):
    pass


class Leftover(Scale):
    weights = {}


class NoPermutation(Scale):
    weights = {"s": "s: C -> C C"}


class Nan(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: np.where(inputs["x"] > 0, inputs["x"], np.nan) * weights["s"]


class Drifting(Truth):
    """A layer within its budget whose last bit differs between two runs."""

    evaluations = 0

    def build(self, config):
        self.evaluations += 1
        last = np.float32(1 + self.evaluations % 2 * 2.0**-23)
        return lambda inputs, weights: inputs["x"] * weights["s"] * last


class Dropping(Truth):
    """Dropout, with another mask at each run."""

    def build(self, config):
        rng = np.random.default_rng()
        return lambda inputs, weights: inputs["x"] * weights["s"] * (rng.random(inputs["x"].shape) > 0.25)


class Marked(Scale):
    """A layer that is right only where the interpreter sets PARITY_TEST_MARK."""

    def build(self, config):
        return super().build(config) if "PARITY_TEST_MARK" in os.environ else Off.build(self, config)


class DiesLater(Off):
    """A wrong layer whose process dies at the second request, so that the first request's results arrive."""

    evaluations = 1

    def build(self, config):
        self.evaluations -= 1
        if self.evaluations < 0:
            print("last words", flush=True)
            os._exit(9)
        return super().build(config)


class DiesInTheSecondCase(DiesLater):
    build = DiesLater.build


class WrongCompiled(KerasAdapter):
    """A layer that is right when run eagerly and wrong when compiled."""

    def build(self, config):
        import keras
        import tensorflow as tf

        class Layer(keras.layers.Layer):
            def build(self, shape):
                self.s = self.add_weight(shape=(shape[-1],), name="s")

            def call(self, x):
                return x * self.s * (1.0 if tf.executing_eagerly() else 1.01)

        return Layer()


FIELDS = {"layout": "N C", "weights": {"s": "C"}, "reference": Truth}

SCALE = Spec("Scale", runners={"numpy": Scale, "numpy-off": Off}, **FIELDS)

RIGHT = replace(SCALE, runners={"numpy": Scale})

MANUAL = replace(SCALE, budget=Manual(1e-3))

NAN = replace(RIGHT, reference=Nan)

FAULTY = replace(
    SCALE,
    runners={"numpy": Scale, "numpy-a": NoBuild, "numpy-b": Leftover, "numpy-c": NoPermutation},
)
