"""A small network trained on scikit-learn's digits: 64-32-10 with relu, cross entropy in the layer's call.

All runners start from the same weights and see the same 200 batches of 32 digits, so the trajectory check shows how far
rounding alone drives them apart. The labels are integers, an input without a gradient. There are no biases, whose
gradients `bf16_gate:BIAS` shows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_multi.parity.define.adapters import JaxAdapter, KerasAdapter, LinenAdapter, NnxAdapter, TorchAdapter
from eca_multi.parity.define.sources import Arrays, Rng, integers, normal
from eca_multi.parity.define.spec import Case, Spec, Training
from eca_multi.parity.define.taps import tap

Config = Mapping[str, Any]
Tensors = Mapping[str, Any]


class Torch(TorchAdapter):
    weights = {"hidden.weight": "w1: F M -> M F", "out.weight": "w2: M K -> K M"}

    def build(self, config: Config) -> Any:
        import torch
        from torch import nn

        class Mlp(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.hidden = nn.Linear(config["F"], config["M"], bias=False)
                self.out = nn.Linear(config["M"], config["K"], bias=False)

            def forward(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                logits = self.out(tap("hidden", self.hidden(x).relu()))
                # Cast: the loss would be float32 under autocast, and in Keras on JAX.
                return logits, nn.functional.cross_entropy(logits, labels.long()).to(logits.dtype)

        return Mlp()


class Keras(KerasAdapter):
    weights = {"hidden/kernel": "w1", "out/kernel": "w2"}

    def build(self, config: Config) -> Any:
        from keras import layers, losses, ops

        class Mlp(layers.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.hidden = layers.Dense(config["M"], "relu", use_bias=False, name="hidden")
                self.out = layers.Dense(config["K"], use_bias=False, name="out")

            def call(self, x: Any, labels: Any) -> Any:
                logits = self.out(tap("hidden", self.hidden(x)))
                loss = ops.mean(losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
                return logits, ops.cast(loss, logits.dtype)

        return Mlp()

    def call(self, layer: Any, inputs: Tensors, config: Config) -> Any:
        return layer(inputs["x"], inputs["labels"])


class Linen(LinenAdapter):
    weights = {"params/hidden/kernel": "w1", "params/out/kernel": "w2"}

    def build(self, config: Config) -> Any:
        import jax
        from flax import linen as nn

        options = {"use_bias": False, "dtype": config["dtype"], "param_dtype": config["param_dtype"]}

        class Mlp(nn.Module):
            @nn.compact
            def __call__(self, x: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
                hidden = tap("hidden", nn.relu(nn.Dense(config["M"], name="hidden", **options)(x)))
                logits = nn.Dense(config["K"], name="out", **options)(hidden)
                return logits, _cross_entropy(logits, labels)

        return Mlp()


class Nnx(NnxAdapter):
    weights = {"hidden.kernel": "w1", "out.kernel": "w2"}

    def build(self, config: Config) -> Any:
        import jax
        from flax import nnx

        options = {"use_bias": False, "dtype": config["dtype"], "param_dtype": config["param_dtype"]}

        class Mlp(nnx.Module):
            def __init__(self, rngs: nnx.Rngs) -> None:
                self.hidden = nnx.Linear(config["F"], config["M"], rngs=rngs, **options)
                self.out = nnx.Linear(config["M"], config["K"], rngs=rngs, **options)

            def __call__(self, x: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
                logits = self.out(tap("hidden", nnx.relu(self.hidden(x))))
                return logits, _cross_entropy(logits, labels)

        return Mlp(nnx.Rngs(0))


class Jax(JaxAdapter):
    def build(self, config: Config) -> Any:
        import jax

        def mlp(inputs: Tensors, weights: Tensors) -> tuple[jax.Array, jax.Array]:
            w = {name: weight.astype(config["dtype"]) for name, weight in weights.items()}
            hidden = tap("hidden", jax.nn.relu(inputs["x"] @ w["w1"]))
            logits = hidden @ w["w2"]
            return logits, _cross_entropy(logits, inputs["labels"])

        return mlp


def _cross_entropy(logits: Any, labels: Any) -> Any:
    import jax

    chosen = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return -(jax.nn.log_softmax(logits) * chosen).sum(-1).mean()


def _digits(rng: Rng, config: Config, steps: int) -> Arrays:
    """Return `steps` batches of 8x8 images of digits, with values in [0, 1], and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    chosen = rng.integers(len(labels), size=(steps, config["N"]))
    return {"x": images[chosen] / 16, "labels": labels[chosen].astype(np.int32)}


def _batch(rng: Rng, config: Config) -> Arrays:
    return {name: batches[0] for name, batches in _digits(rng, config, 1).items()}


SPEC = Spec(
    "MLP on digits",
    layout="NF",
    inputs={"x": "N F", "labels": integers("N", 0, 10)},
    weights={"w1": normal("F M", 0.15), "w2": normal("M K", 0.2)},
    outputs={"logits": "N K", "loss": ""},
    runners={"torch": Torch, "keras": Keras, "linen": Linen, "nnx": Nnx, "jax": Jax},
    reference=Torch,
    config={"N": 32, "F": 64, "M": 32, "K": 10},
    taps=("hidden",),
    cases=(Case("digits", "a batch of 32 real digits", draw=_batch),),
    training=Training(steps=200, optimizer="momentum", rate=0.05, batches=_digits, loss="loss"),
)
