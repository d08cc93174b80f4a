"""Layers in NumPy and torch, with one misfortune in each runner, for runs of the harness of a second or two.

Loaded by workers as `tests/support/misfortunes.py:Class`; y is x times a scale for each channel.
"""

import sys
import time

import numpy as np

from eca_multi.parity import Case, NumpyAdapter, Runner, Spec, TorchAdapter


class Right(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["scale"]


class Silent(NumpyAdapter):
    def build(self, config):
        print("last words", file=sys.stderr, flush=True)
        time.sleep(600)


class Raising(Right):
    """Right in float32; in any other dtype building the layer raises."""

    def build(self, config):
        if config["dtype"] != "float32":
            raise RuntimeError("no such kernel")
        return super().build(config)


class Wrong(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["scale"] * np.float32(1.001)


class Torch(TorchAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["scale"]


RUNNERS = {
    "numpy": Right,
    "numpy-silent": Silent,
    "numpy-wrong": Wrong,
    "numpy-raising": Raising,
    "torch": Torch,
    "absent": Runner("absent", Right, requires=("no_such_package",), extra="absent"),
}
SPEC = Spec("Scale", "NC", weights={"scale": "C"}, reference=Right, runners=RUNNERS, cases=(Case("small"),))
# With one sample and one channel there is nothing to flip or to mix: no mutant is seen, so a wrong layer would pass.
POWER = Spec(
    "Scale",
    "NC",
    weights={"scale": "C"},
    reference=Right,
    runners=RUNNERS,
    cases=(Case("powerless", config={"N": 1, "C": 1}), Case("telling")),
)
