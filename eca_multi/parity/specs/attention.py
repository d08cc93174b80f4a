"""Multi-head self-attention over a padded sequence: two inputs, the sequence and a mask of its valid positions.

Keras and Flax bring a layer; in torch and JAX it is the framework's attention function between four projections, whose
weights keep the names and axes of the specification. nn.MultiheadAttention, which keeps query, key and value in one
matrix, would be mapped by "query key value: e h d -> (qkv h d) e". There are no biases:
the key's bias has no effect on a softmax, and `bf16_gate:BIAS` shows the gradients of the others.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_multi.parity.define.adapters import JaxAdapter, KerasAdapter, LinenAdapter, NnxAdapter, TorchAdapter
from eca_multi.parity.define.sources import Arrays, Rng, booleans, normal
from eca_multi.parity.define.spec import Case, Spec, Training
from eca_multi.parity.define.taps import tap

Config = Mapping[str, Any]
Tensors = Mapping[str, Any]

PARTS = ("query", "key", "value")
NO_FLOAT16 = {"float16": "jax.nn.dot_product_attention has no gradient in float16 on a CPU"}


def _weights(kernel: str, out: str) -> dict[str, str | None]:
    """Return the weight map of a framework, where {} stands for query, key or value."""
    return {**{kernel.format(part): f"w_{part}" for part in PARTS}, out: "w_out"}


class Torch(TorchAdapter):
    def build(self, config: Config) -> Any:
        import torch

        def attend(inputs: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
            x, w = inputs["x"], weights
            query, key, value = (
                tap(part, torch.einsum("nlc,chd->nlhd", x, w[f"w_{part}"])).transpose(1, 2) for part in PARTS
            )
            mask = inputs["mask"][:, None, None, :]
            mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
            return torch.einsum("nhld,hdc->nlc", mixed, w["w_out"])

        return attend


class Keras(KerasAdapter):
    weights = _weights("{}/kernel", "attention_output/kernel")
    taps = {part: f"_{part}_dense" for part in PARTS}

    def build(self, config: Config) -> Any:
        from keras import layers

        return layers.MultiHeadAttention(config["heads"], config["D"], use_bias=False)

    def call(self, layer: Any, inputs: Tensors, config: Config) -> Any:
        x = inputs["x"]
        return layer(x, x, attention_mask=inputs["mask"][:, None, :])


class KerasJax(Keras):
    unsupported = NO_FLOAT16


class KerasTorch(Keras):
    unsupported = {"compiled": "dynamo cannot trace Keras's attention"}


class Linen(LinenAdapter):
    weights = _weights("params/{}/kernel", "params/out/kernel")
    taps = {part: part for part in PARTS}

    def build(self, config: Config) -> Any:
        from flax import linen as nn

        options = {"use_bias": False, "dtype": config["dtype"], "param_dtype": config["param_dtype"]}
        return nn.MultiHeadDotProductAttention(config["heads"], qkv_features=config["heads"] * config["D"], **options)

    def call(self, layer: Any, inputs: Tensors, config: Config) -> Any:
        return layer(inputs["x"], mask=inputs["mask"][:, None, None, :])


class Nnx(NnxAdapter):
    unsupported = NO_FLOAT16
    weights = _weights("{}.kernel", "out.kernel")
    taps = {part: part for part in PARTS}

    def build(self, config: Config) -> Any:
        from flax import nnx

        options = {"use_bias": False, "dtype": config["dtype"], "param_dtype": config["param_dtype"]}
        heads, inner = config["heads"], config["heads"] * config["D"]
        return nnx.MultiHeadAttention(heads, config["C"], inner, decode=False, rngs=nnx.Rngs(0), **options)

    def call(self, layer: Any, inputs: Tensors, config: Config) -> Any:
        return layer(inputs["x"], mask=inputs["mask"][:, None, None, :])


class Jax(JaxAdapter):
    unsupported = NO_FLOAT16

    def build(self, config: Config) -> Any:
        import jax
        from jax import numpy as jnp

        def attend(inputs: Mapping[str, jax.Array], weights: Mapping[str, jax.Array]) -> jax.Array:
            x, w = inputs["x"], {name: weight.astype(config["dtype"]) for name, weight in weights.items()}
            query, key, value = (tap(part, jnp.einsum("nlc,chd->nlhd", x, w[f"w_{part}"])) for part in PARTS)
            mixed = jax.nn.dot_product_attention(query, key, value, mask=inputs["mask"][:, None, None, :])
            return jnp.einsum("nlhd,hdc->nlc", mixed, w["w_out"])

        return attend


def _padded(rng: Rng, config: Config) -> Arrays:
    """Draw sequences of different lengths, each of one position at least: attention to no position has no value."""
    lengths = np.linspace(config["L"], 1, config["N"]).astype(int)
    return {"mask": np.arange(config["L"]) < lengths[:, None]}


SPEC = Spec(
    "Self-attention",
    layout="N L C",
    inputs={"x": "N L C", "mask": booleans("N L")},
    weights={**{f"w_{part}": normal("C heads D", 0.3) for part in PARTS}, "w_out": normal("heads D C", 0.3)},
    runners={
        "torch": Torch,
        "keras-tensorflow": Keras,
        "keras-jax": KerasJax,
        "keras-torch": KerasTorch,
        "linen": Linen,
        "nnx": Nnx,
        "jax": Jax,
    },
    reference=Torch,
    config={"N": 3, "L": 9, "C": 12, "heads": 2, "D": 5},
    taps=PARTS,
    cases=(
        Case("padded", "sequences of 9, 5 and 1 valid positions", draw=_padded),
        Case(
            "all-valid",
            "a mask that masks nothing",
            draw=lambda rng, config: {"mask": np.ones((config["N"], config["L"]), bool)},
        ),
        Case("long", "sums over 200 positions", {"N": 2, "L": 200}, draw=_padded),
    ),
    training=Training(steps=10, optimizer="momentum", rate=1e-3, cases=("padded",)),
)
