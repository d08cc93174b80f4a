"""Three convolutions of stride 2, each with a tap: a reference in PyTorch, channels first, and ports in JAX, last."""

# ruff: noqa: RUF012  (an adapter declares its weight map as a class attribute, as users do)

import jax
import torch
from jax import numpy as jnp
from torch import nn

from eca_multi.parity import Case, JaxAdapter, Spec, TorchAdapter, tap
from eca_multi.parity.define.sources import normal

STAGES = ("one", "two", "three")


class Stages(nn.Module):
    def __init__(self, channels):
        super().__init__()
        for stage in STAGES:
            self.add_module(stage, nn.Conv2d(channels, channels, 3, 2, 1))

    def forward(self, x):
        for stage in STAGES:
            x = torch.relu(self.get_submodule(stage)(x))
        return x.mean((2, 3))


class Torch(TorchAdapter):
    layout = "NCHW"
    weights = {f"{stage}.{part}": f"{stage}_{part}" for stage in STAGES for part in ("weight", "bias")}
    taps = {stage: stage for stage in STAGES}

    def build(self, config):
        return Stages(config["C"])


class Right(JaxAdapter):
    layout = "NHWC"
    weights = {f"{stage}_weight": f"{stage}_weight: o i h w -> h w i o" for stage in STAGES} | {
        f"{stage}_bias": f"{stage}_bias" for stage in STAGES
    }
    padding = dict.fromkeys(STAGES, ((1, 1), (1, 1)))

    def build(self, config):
        def forward(inputs, weights):
            x = inputs["x"]
            for stage in STAGES:
                kernel, padding = weights[f"{stage}_weight"], self.padding[stage]
                x = jax.lax.conv_general_dilated(x, kernel, (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
                x = jax.nn.relu(tap(stage, x + weights[f"{stage}_bias"]))
            return jnp.mean(x, (1, 2))

        return forward


class Same(Right):
    """The last stage pads as SAME does."""

    padding = {**Right.padding, "three": "SAME"}


def _weights():
    for stage in STAGES:
        yield f"{stage}_weight", normal("o i h w", 0.3)
        yield f"{stage}_bias", normal("o", 0.3)


SPEC = Spec(
    "Stages",
    "NCHW",
    weights=dict(_weights()),
    runners={"torch": Torch, "jax": Right, "jax-same": Same},
    reference=Torch,
    config={"N": 2, "C": 5, "H": 32, "W": 48, "o": 5, "i": 5, "h": 3, "w": 3},
    outputs={"y": "N C"},
    taps=STAGES,
    cases=(Case("images"),),
)
