"""A defect to find: JAX adds up in bfloat16 the gradient of a tensor that a product broadcasts in bfloat16.

y = x * gate with gate = sigmoid(w * mean(x) + b). The gradient of the gate is sum(dy * x) over all positions, and JAX
adds it up in bfloat16: on a 28 x 28 map after a relu it is a fifth too small, and so is that of every weight before the
gate. torch adds up in float32; so does TensorFlow here, but in float16 it has the same fault. `SPEC` is the plain form;
`REPAIRED` multiplies in float32 and rounds the product. `BIAS` is the same fault in a common layer, the bias of Keras's
and Flax's own Dense over a sequence of tokens; there TensorFlow has it too, and a sum of 800 ones is 256.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from eca_multi.parity.define.adapters import JaxAdapter, KerasAdapter, LinenAdapter, NnxAdapter, TorchAdapter
from eca_multi.parity.define.sources import Arrays, Rng, normal
from eca_multi.parity.define.spec import Case, Spec
from eca_multi.parity.define.taps import tap

Config = Mapping[str, Any]


class Torch(TorchAdapter):
    layout = "NCHW"

    def build(self, config: Config) -> Any:
        import torch

        def gated(inputs: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
            x, w, b = inputs["x"], *(weights[name].to(inputs["x"].dtype) for name in "wb")
            pooled = tap("pooled", x.mean((2, 3)))
            gate = tap("gate", torch.sigmoid(pooled * w + b))
            return x * gate[:, :, None, None]

        return gated


class Jax(JaxAdapter):
    layout = "NHWC"
    wide = False

    def build(self, config: Config) -> Any:
        import jax

        def gated(inputs: Mapping[str, jax.Array], weights: Mapping[str, jax.Array]) -> jax.Array:
            x, w, b = inputs["x"], *(weights[name].astype(inputs["x"].dtype) for name in "wb")
            pooled = tap("pooled", x.mean((1, 2)))
            gate = tap("gate", jax.nn.sigmoid(pooled * w + b))[:, None, None, :]
            return (x.astype("float32") * gate.astype("float32")).astype(x.dtype) if self.wide else x * gate

        return gated


class JaxRepaired(Jax):
    wide = True


class Linen(LinenAdapter):
    layout = "NHWC"
    weights = {"params/w": "w", "params/b": "b"}
    wide = False

    def build(self, config: Config) -> Any:
        import jax
        from flax import linen as nn

        wide = self.wide

        class Gate(nn.Module):
            @nn.compact
            def __call__(self, x: jax.Array) -> jax.Array:
                arguments = nn.initializers.zeros, x.shape[-1:], config["param_dtype"]
                w, b = (self.param(name, *arguments).astype(x.dtype) for name in "wb")
                pooled = tap("pooled", x.mean((1, 2)))
                gate = tap("gate", nn.sigmoid(pooled * w + b))[:, None, None, :]
                return (x.astype("float32") * gate.astype("float32")).astype(x.dtype) if wide else x * gate

        return Gate()


class LinenRepaired(Linen):
    wide = True


class Keras(KerasAdapter):
    layout = "NHWC"
    weights = {"w": "w", "b": "b"}
    wide = False

    def build(self, config: Config) -> Any:
        from keras import layers, ops

        wide = self.wide

        class Gate(layers.Layer):
            def build(self, shape: Any) -> None:
                self.w = self.add_weight(shape=shape[-1:], name="w")
                self.b = self.add_weight(shape=shape[-1:], name="b")

            def call(self, x: Any) -> Any:
                pooled = tap("pooled", ops.mean(x, (1, 2)))
                gate = tap("gate", ops.sigmoid(pooled * self.w + self.b))[:, None, None, :]
                return ops.cast(ops.cast(x, "float32") * ops.cast(gate, "float32"), x.dtype) if wide else x * gate

        return Gate()


class KerasRepaired(Keras):
    wide = True


class TorchDense(TorchAdapter):
    weights = {"weight": "kernel: C O -> O C", "bias": "bias"}

    def build(self, config: Config) -> Any:
        from torch import nn

        return nn.Linear(config["C"], config["O"])


class KerasDense(KerasAdapter):
    weights = {"kernel": "kernel", "bias": "bias"}

    def build(self, config: Config) -> Any:
        from keras import layers

        return layers.Dense(config["O"])


class LinenDense(LinenAdapter):
    weights = {"params/kernel": "kernel", "params/bias": "bias"}

    def build(self, config: Config) -> Any:
        from flax import linen as nn

        return nn.Dense(config["O"], dtype=config["dtype"], param_dtype=config["param_dtype"])


class NnxDense(NnxAdapter):
    weights = {"kernel": "kernel", "bias": "bias"}

    def build(self, config: Config) -> Any:
        from flax import nnx

        dtypes = {"dtype": config["dtype"], "param_dtype": config["param_dtype"]}
        return nnx.Linear(config["C"], config["O"], rngs=nnx.Rngs(0), **dtypes)


def _features(rng: Rng, config: Config) -> Arrays:
    """Draw a map after a relu, and the cotangent of its sum."""
    shape = [config[axis] for axis in "NCHW"]
    return {"x": np.maximum(rng.normal(1.0, 1.0, shape), 0), "dy": np.ones(shape)}


SPEC = Spec(
    "A gate in bfloat16",
    layout="NCHW",
    weights={"w": "C", "b": "C"},
    runners={"torch": Torch, "keras": Keras, "linen": Linen, "jax": Jax},
    reference=Torch,
    config={"C": 12},
    taps=("pooled", "gate"),
    strict=True,
    cases=(
        Case("28x28", "784 positions, as late in a network", {"H": 28, "W": 28}, draw=_features),
        Case("56x56", "3136 positions, as early in a network", {"H": 56, "W": 56}, draw=_features),
    ),
)
REPAIRED = replace(
    SPEC,
    name="A gate in bfloat16, multiplied in float32",
    runners={"torch": Torch, "keras": KerasRepaired, "linen": LinenRepaired, "jax": JaxRepaired},
)
BIAS = Spec(
    "A bias in bfloat16",
    layout="N L C",
    weights={"kernel": normal("C O", 0.2), "bias": "O"},
    outputs={"y": "N L O"},
    runners={"torch": TorchDense, "keras": KerasDense, "linen": LinenDense, "nnx": NnxDense},
    reference=TorchDense,
    config={"N": 4, "L": 200, "C": 12, "O": 7},
    cases=(Case("tokens", "800 tokens, whose cotangents add up to the gradient of the bias"),),
)
