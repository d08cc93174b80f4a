"""A 3x3 convolution with stride 2: with the same padding in every framework, and with each framework's own.

`SPEC` pads one row and column on every side. `SAME` sets padding=1 in torch and "same" elsewhere, which pads an even
size behind alone, so that every window begins one pixel later. There is no bias, whose gradient `bf16_gate:BIAS` shows.
On many CPUs torch and TensorFlow add up the gradients in float16, which is their ROUNDING. `HALF` shows that error
over a large batch, and that on some processors torch never writes the gradients of those elements of a bfloat16 kernel
that meet padding alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from eca_multi.parity.define.adapters import JaxAdapter, KerasAdapter, LinenAdapter, NnxAdapter, TorchAdapter
from eca_multi.parity.define.sources import Arrays, Rng, normal
from eca_multi.parity.define.spec import Case, Spec, Training

Config = Mapping[str, Any]

BOTH_SIDES = ((1, 1), (1, 1))
CHANNELS_LAST = "N H W P Q C O"  # of the input, whose axes are N C H W, and of the output, N O P Q


class Torch(TorchAdapter):
    weights = {"weight": "kernel: kh kw C O -> O C kh kw"}

    def build(self, config: Config) -> Any:
        from torch import nn

        return nn.Conv2d(config["C"], config["O"], 3, stride=2, padding=1, bias=False)


class Keras(KerasAdapter):
    layout = CHANNELS_LAST
    weights = {"conv/kernel": "kernel"}

    def build(self, config: Config) -> Any:
        from keras import Sequential, layers

        options = {"use_bias": False, "data_format": "channels_last"}
        pad = layers.ZeroPadding2D(1, data_format="channels_last")
        return Sequential([pad, layers.Conv2D(config["O"], 3, 2, name="conv", **options)])


class KerasTorch(Keras):
    unsupported = {"compiled": "dynamo cannot trace Keras's Conv2D after another layer"}


class KerasSame(Keras):
    weights = {"kernel": "kernel"}

    def build(self, config: Config) -> Any:
        from keras import layers

        return layers.Conv2D(config["O"], 3, 2, padding="same", use_bias=False, data_format="channels_last")


class Linen(LinenAdapter):
    layout = CHANNELS_LAST
    weights = {"params/kernel": "kernel"}
    padding: Any = BOTH_SIDES

    def build(self, config: Config) -> Any:
        from flax import linen as nn

        dtypes = {"dtype": config["dtype"], "param_dtype": config["param_dtype"]}
        return nn.Conv(config["O"], (3, 3), 2, padding=self.padding, use_bias=False, **dtypes)


class LinenSame(Linen):
    padding = "SAME"


class Nnx(NnxAdapter):
    layout = CHANNELS_LAST
    weights = {"kernel": "kernel"}
    padding: Any = BOTH_SIDES

    def build(self, config: Config) -> Any:
        from flax import nnx

        dtypes = {"dtype": config["dtype"], "param_dtype": config["param_dtype"]}
        options = {"padding": self.padding, "use_bias": False, "rngs": nnx.Rngs(0)}
        return nnx.Conv(config["C"], config["O"], (3, 3), 2, **options, **dtypes)


class NnxSame(Nnx):
    padding = "SAME"


class Jax(JaxAdapter):
    layout = CHANNELS_LAST
    padding: Any = BOTH_SIDES

    def build(self, config: Config) -> Any:
        from jax import lax

        def convolve(inputs: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
            kernel, axes = weights["kernel"].astype(config["dtype"]), ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(inputs["x"], kernel, (2, 2), self.padding, dimension_numbers=axes)

        return convolve


class JaxSame(Jax):
    padding = "SAME"


def _impulse(rng: Rng, config: Config) -> Arrays:
    """Draw a single pixel inside the map: the output is the kernel, whose place shows where windows begin."""
    x = np.zeros([config[axis] for axis in "NCHW"])
    x[:, 0, 2, 3] = 1.0
    return {"x": x}


def _same_sign(rng: Rng, config: Config) -> Arrays:
    x = np.abs(rng.normal(size=[config[axis] for axis in "NCHW"]))
    return {"x": x, "dy": np.ones([config[axis] for axis in "NOPQ"])}


EVEN = {"C": 6, "O": 5, "H": 8, "W": 10, "P": 4, "Q": 5}
ONE_PIXEL = {**EVEN, "N": 1, "C": 16, "O": 16, "H": 1, "W": 1, "P": 1, "Q": 1}
IMPULSE = Case("impulse", "one pixel: where it comes out says where windows begin", EVEN, draw=_impulse)

SPEC = Spec(
    "Conv2d",
    layout="NCHW",
    weights={"kernel": normal("kh kw C O", 0.3)},
    outputs={"y": "N O P Q"},
    runners={
        "torch": Torch,
        "keras-tensorflow": Keras,
        "keras-jax": Keras,
        "keras-torch": KerasTorch,
        "linen": Linen,
        "nnx": Nnx,
        "jax": Jax,
    },
    reference=Torch,
    config={"kh": 3, "kw": 3, "O": 5},
    cases=(
        Case("even", "sizes where padding may be uneven", EVEN),
        Case("odd", "odd sizes, a window fewer than the size's half", {**EVEN, "H": 7, "W": 11, "Q": 6}),
        Case("one-window", "H = W = 2: a single window, half of it padding", {**EVEN, "H": 2, "W": 2, "P": 1, "Q": 1}),
        Case("wide", "sums of 9 * 64 products", {**EVEN, "C": 64, "O": 3}),
        IMPULSE,
    ),
    training=Training(steps=10, optimizer="momentum", rate=1e-3, cases=("even",)),
)
SAME = replace(
    SPEC,
    name="Conv2d, each framework's own padding",
    runners={"torch": Torch, "keras": KerasSame, "linen": LinenSame, "nnx": NnxSame, "jax": JaxSame},
    cases=(
        SPEC.case("even"),
        IMPULSE,
        Case("odd", "here both paddings are the same", SPEC.case("odd").config),
    ),
)
HALF = replace(
    SPEC,
    name="Conv2d in half precision",
    runners={"torch": Torch, "keras": Keras, "linen": Linen, "nnx": Nnx, "jax": Jax},
    cases=(
        Case("batch", "10240 terms of one sign in each gradient", {**EVEN, "N": 512, "C": 2, "O": 2}, draw=_same_sign),
        Case("one-pixel", "H = W = 1: most of the kernel meets padding alone", ONE_PIXEL),
    ),
    training=None,
)
