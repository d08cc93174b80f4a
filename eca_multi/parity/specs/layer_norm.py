"""LayerNorm in torch, Keras and Flax: once with equal settings, and three times with a framework's own.

`SPEC` gives all of them eps 1e-5, float32 inside, and the variance as mean((x - mean)^2). `DEFAULTS` leaves eps alone:
it is 1e-5 in torch, 1e-3 in Keras and 1e-6 in Flax. `FAST_VARIANCE` leaves the variance alone: Flax's default is
mean(x^2) - mean^2, which cancels far from zero. `HALF` leaves torch's precision alone: on a CPU torch adds up the
gradients of scale and bias in the dtype of the input, and in bfloat16 a sum of ones ends at 256.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from eca_multi.parity.define.adapters import KerasAdapter, LinenAdapter, NnxAdapter, TorchAdapter
from eca_multi.parity.define.sources import Arrays, Rng, normal
from eca_multi.parity.define.spec import Case, Spec, Training

Config = Mapping[str, Any]


class TorchHalf(TorchAdapter):
    weights = {"weight": "scale", "bias": "bias"}

    def build(self, config: Config) -> Any:
        from torch import nn

        return nn.LayerNorm(config["C"])


class Torch(TorchHalf):
    """torch's layer in float32, as Keras on torch computes it."""

    def build(self, config: Config) -> Any:
        import torch
        from torch import nn

        class LayerNorm(nn.LayerNorm):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if x.dtype == torch.float64:  # the reference
                    return super().forward(x)
                scale, bias = self.weight.float(), self.bias.float()
                return nn.functional.layer_norm(x.float(), self.normalized_shape, scale, bias, self.eps).to(x.dtype)

        return LayerNorm(config["C"], eps=1e-5)


class Keras(KerasAdapter):
    weights = {"gamma": "scale", "beta": "bias"}
    settings: Config = {"epsilon": 1e-5}

    def build(self, config: Config) -> Any:
        from keras import layers

        return layers.LayerNormalization(**self.settings)


class Linen(LinenAdapter):
    weights = {"params/scale": "scale", "params/bias": "bias"}
    settings: Config = {"epsilon": 1e-5, "use_fast_variance": False}

    def build(self, config: Config) -> Any:
        from flax import linen as nn

        return nn.LayerNorm(dtype=config["dtype"], param_dtype=config["param_dtype"], **self.settings)


class Nnx(NnxAdapter):
    weights = {"scale": "scale", "bias": "bias"}
    settings: Config = {"epsilon": 1e-5, "use_fast_variance": False}

    def build(self, config: Config) -> Any:
        from flax import nnx

        dtypes = {"dtype": config["dtype"], "param_dtype": config["param_dtype"]}
        return nnx.LayerNorm(config["C"], rngs=nnx.Rngs(0), **dtypes, **self.settings)


class KerasDefaults(Keras):
    settings: Config = {}


class LinenDefaults(Linen):
    settings: Config = {}


class NnxDefaults(Nnx):
    settings: Config = {}


class LinenFast(Linen):
    settings: Config = {"epsilon": 1e-5}


class NnxFast(Nnx):
    settings: Config = {"epsilon": 1e-5}


def _normal(mean: float, deviation: float) -> Callable[[Rng, Config], Arrays]:
    return lambda rng, config: {"x": rng.normal(mean, deviation, [config[axis] for axis in "NLC"])}


QUIET = Case("quiet", "a variance of 2.5e-3, beside which eps counts in half precision too", draw=_normal(0.0, 0.05))

SPEC = Spec(
    "LayerNorm",
    layout="N L C",
    weights={"scale": normal("C", 0.5, 1.0), "bias": "C"},
    runners={"torch": Torch, "keras": Keras, "linen": Linen, "nnx": Nnx},
    reference=Torch,
    config={"C": 20, "L": 11},
    training=Training(steps=10, optimizer="momentum", rate=1e-3, cases=("offsets",)),
    cases=(
        Case("offsets", "a mean of its own in each channel"),
        Case("one-sample", "N = 1 and one position", {"N": 1, "L": 1}),
        Case("wide", "sums over 768 channels", {"C": 768, "L": 3}),
        QUIET,
    ),
)
DEFAULTS = replace(
    SPEC,
    name="LayerNorm with default eps",
    runners={"torch": Torch, "keras": KerasDefaults, "linen": LinenDefaults, "nnx": NnxDefaults},
    cases=(QUIET,),
    training=None,
)
# Not a case of SPEC: the error of the mean, common to a row, nearly vanishes from some elements of dx in one form of
# the gradient and not in another, and the budget knows one form.
FAST_VARIANCE = replace(
    SPEC,
    name="LayerNorm with default variance",
    runners={"torch": Torch, "linen": LinenFast, "nnx": NnxFast},
    cases=(Case("far-from-zero", "mean 30, deviation 1: mean(x^2) - mean^2 cancels", draw=_normal(30.0, 1.0)),),
    training=None,
)
HALF = replace(
    SPEC,
    name="LayerNorm in half precision",
    runners={"torch": TorchHalf, "keras": Keras, "linen": Linen, "nnx": Nnx},
    cases=(Case("tokens", "800 tokens, whose cotangents add up to the gradient of the bias", {"N": 4, "L": 200}),),
    training=None,
)
