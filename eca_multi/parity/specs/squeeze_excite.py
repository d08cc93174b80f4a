"""Squeeze-and-Excitation (Hu et al., 2018) from each framework's layers: y = x * sigmoid(expand(relu(reduce(mean x)))).

Every framework multiplies in float32: under JAX the gradient of a product in bfloat16 sums in bfloat16, which
`bf16_gate` shows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_multi.parity.define.adapters import JaxAdapter, KerasAdapter, LinenAdapter, NnxAdapter, TorchAdapter
from eca_multi.parity.define.sources import Arrays, Rng, normal
from eca_multi.parity.define.spec import Case, Spec, Training
from eca_multi.parity.define.taps import tap

from ._images import photographs

Config = Mapping[str, Any]


def _weights(native: str) -> dict[str, str]:
    """Return the weight map of a framework that names a weight {layer}/{kind}, in a form of its own."""
    return {
        native.format(layer=layer, kind=kind): name
        for layer in ("reduce", "expand")
        for kind, name in (("kernel", layer), ("bias", f"{layer}_bias"))
    }


class Torch(TorchAdapter):
    layout = "NCHW"
    weights = {
        "reduce.weight": "reduce: C S -> S C",
        "reduce.bias": "reduce_bias",
        "expand.weight": "expand: S C -> C S",
        "expand.bias": "expand_bias",
    }

    def build(self, config: Config) -> Any:
        import torch
        from torch import nn

        class SqueezeExcite(nn.Module):
            def __init__(self, channels: int, squeezed: int) -> None:
                super().__init__()
                self.reduce, self.expand = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                pooled = tap("pooled", x.mean((2, 3)))
                reduced = tap("reduced", self.reduce(pooled).relu())
                gate = tap("gate", self.expand(reduced).sigmoid())
                return (x.float() * gate.float()[:, :, None, None]).to(x.dtype)

        return SqueezeExcite(config["C"], config["S"])


class Keras(KerasAdapter):
    layout = "NHWC"
    weights = _weights("{layer}/{kind}")

    def build(self, config: Config) -> Any:
        from keras import layers, ops

        class SqueezeExcite(layers.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.pool = layers.GlobalAveragePooling2D(data_format="channels_last")
                self.reduce = layers.Dense(config["S"], "relu", name="reduce")
                self.expand = layers.Dense(config["C"], "sigmoid", name="expand")

            def call(self, x: Any) -> Any:
                pooled = tap("pooled", self.pool(x))
                reduced = tap("reduced", self.reduce(pooled))
                gate = tap("gate", self.expand(reduced))
                y = ops.cast(x, "float32") * ops.cast(gate, "float32")[:, None, None, :]
                return ops.cast(y, x.dtype)

        return SqueezeExcite()


class Linen(LinenAdapter):
    layout = "NHWC"
    weights = _weights("params/{layer}/{kind}")

    def build(self, config: Config) -> Any:
        import jax
        from flax import linen as nn

        dtypes = {"dtype": config["dtype"], "param_dtype": config["param_dtype"]}

        class SqueezeExcite(nn.Module):
            @nn.compact
            def __call__(self, x: jax.Array) -> jax.Array:
                pooled = tap("pooled", x.mean((1, 2)))
                reduced = tap("reduced", nn.relu(nn.Dense(config["S"], name="reduce", **dtypes)(pooled)))
                gate = tap("gate", nn.sigmoid(nn.Dense(config["C"], name="expand", **dtypes)(reduced)))
                return (x.astype("float32") * gate.astype("float32")[:, None, None, :]).astype(x.dtype)

        return SqueezeExcite()


class Nnx(NnxAdapter):
    layout = "NHWC"
    weights = _weights("{layer}.{kind}")

    def build(self, config: Config) -> Any:
        import jax
        from flax import nnx

        dtypes = {"dtype": config["dtype"], "param_dtype": config["param_dtype"]}

        class SqueezeExcite(nnx.Module):
            def __init__(self, rngs: nnx.Rngs) -> None:
                self.reduce = nnx.Linear(config["C"], config["S"], rngs=rngs, **dtypes)
                self.expand = nnx.Linear(config["S"], config["C"], rngs=rngs, **dtypes)

            def __call__(self, x: jax.Array) -> jax.Array:
                pooled = tap("pooled", x.mean((1, 2)))
                reduced = tap("reduced", nnx.relu(self.reduce(pooled)))
                gate = tap("gate", nnx.sigmoid(self.expand(reduced)))
                return (x.astype("float32") * gate.astype("float32")[:, None, None, :]).astype(x.dtype)

        return SqueezeExcite(nnx.Rngs(0))


class Jax(JaxAdapter):
    def build(self, config: Config) -> Any:
        import jax

        def squeeze_excite(inputs: Mapping[str, jax.Array], weights: Mapping[str, jax.Array]) -> jax.Array:
            x, w = inputs["x"], {name: weight.astype(config["dtype"]) for name, weight in weights.items()}
            pooled = tap("pooled", x.mean((2, 3)))
            reduced = tap("reduced", jax.nn.relu(pooled @ w["reduce"] + w["reduce_bias"]))
            gate = tap("gate", jax.nn.sigmoid(reduced @ w["expand"] + w["expand_bias"]))
            return (x.astype("float32") * gate.astype("float32")[:, :, None, None]).astype(x.dtype)

        return squeeze_excite


def _same_sign(rng: Rng, config: Config) -> Arrays:
    x = rng.normal(size=[config[axis] for axis in "NCHW"])
    return {"x": np.abs(x), "dy": np.ones_like(x)}


SPEC = Spec(
    "SqueezeExcite",
    layout="NCHW",
    weights={
        "reduce": normal("C S", 0.3),
        "reduce_bias": normal("S", 0.3),
        "expand": normal("S C", 0.5),
        "expand_bias": "C",
    },
    runners={"torch": Torch, "keras": Keras, "linen": Linen, "nnx": Nnx, "jax": Jax},
    reference=Torch,
    config={"C": 20, "S": 5},
    taps=("pooled", "reduced", "gate"),
    cases=(
        Case(
            "photographs",
            "two real photographs as 8x8-block DCT maps, the lowest 32 of 64 frequencies of one colour",
            {"C": 32, "S": 6, "H": 53, "W": 80},
            draw=photographs,
        ),
        Case("offsets", "a mean of its own in each channel, H != W, N > 1"),
        Case("one-position", "N = H = W = 1: the mean is the value itself", {"N": 1, "H": 1, "W": 1}),
        Case(
            "same-sign",
            "x > 0 and cotangent 1: long sums stagnate in half precision",
            {"H": 53, "W": 61},
            draw=_same_sign,
        ),
    ),
    training=Training(steps=10, optimizer="momentum", rate=1e-3, cases=("offsets",)),
)
