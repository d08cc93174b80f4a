"""BatchNorm at inference and in training, with the running statistics after the call.

The frameworks disagree about three things. eps is 1e-5 in torch and Flax and 1e-3 in Keras. A momentum of 0.1 in torch
is one of 0.9 in Keras and Flax, whose default is 0.99. The running variance is that of the sample, divided by n - 1, in
torch, and that of the batch, divided by n, elsewhere. `SPEC` sets the first two and keeps the variance of the batch;
`DEFAULTS` leaves all three alone. Flax's layers compute in float32 here, and linen's gets its input in float32, since
it casts nothing at inference. In bfloat16 both add up the gradient of the bias in bfloat16: see `bf16_gate:BIAS`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from eca_multi.parity.define.adapters import KerasAdapter, LinenAdapter, NnxAdapter, TorchAdapter
from eca_multi.parity.define.sources import Arrays, Rng, normal, uniform
from eca_multi.parity.define.spec import Case, Spec, Training

Config = Mapping[str, Any]


class TorchDefaults(TorchAdapter):
    layout = "NCHW"
    statistics = {"running_mean": "mean", "running_var": "var", "num_batches_tracked": None}
    weights = {"weight": "scale", "bias": "bias", **statistics}

    def build(self, config: Config) -> Any:
        from torch import nn

        return nn.BatchNorm2d(config["C"])


class Torch(TorchDefaults):
    """torch's layer, with a running variance over n in place of n - 1."""

    def build(self, config: Config) -> Any:
        return biased("BatchNorm2d")(config["C"], eps=1e-5, momentum=0.1)


@cache
def biased(name: str) -> Any:
    """Return a subclass of one of torch's batch normalisations that keeps the variance of the batch."""
    import torch

    layer: Any = getattr(torch.nn, name)

    class BatchNorm(layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training:
                y: torch.Tensor = super().forward(x)
                return y
            mean, var, momentum = self.running_mean, self.running_var, self.momentum or 0.0
            count = x.numel() // x.shape[1]
            mixed = var.clone()
            y = torch.nn.functional.batch_norm(x, mean, mixed, self.weight, self.bias, True, momentum, self.eps)
            kept = (1 - momentum) * var
            var.copy_(kept + (mixed - kept) * (count - 1) / count)
            return y

    return BatchNorm


class Keras(KerasAdapter):
    layout = "NHWC"
    weights = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
    settings: Config = {"epsilon": 1e-5, "momentum": 0.9}

    def build(self, config: Config) -> Any:
        from keras import layers

        return layers.BatchNormalization(**self.settings)


class KerasTorch(Keras):
    unsupported = {"compiled": "dynamo cannot trace Keras's BatchNormalization in training"}


class Linen(LinenAdapter):
    layout = "NHWC"
    weights = {"params/scale": "scale", "params/bias": "bias", "batch_stats/mean": "mean", "batch_stats/var": "var"}
    settings: Config = {"epsilon": 1e-5, "momentum": 0.9, "use_fast_variance": False}

    def build(self, config: Config) -> Any:
        from flax import linen as nn

        options = {"dtype": "float32", "param_dtype": config["param_dtype"], **self.settings}
        return nn.BatchNorm(use_running_average=not config["training"], **options)

    def call(self, layer: Any, inputs: Mapping[str, Any], config: Config) -> Any:
        return layer(inputs["x"].astype("float32")).astype(config["dtype"])


class Nnx(NnxAdapter):
    layout = "NHWC"
    weights = {"scale": "scale", "bias": "bias", "mean": "mean", "var": "var"}
    settings: Config = {"epsilon": 1e-5, "momentum": 0.9, "use_fast_variance": False}

    def build(self, config: Config) -> Any:
        from flax import nnx

        options = {"dtype": "float32", "param_dtype": config["param_dtype"], **self.settings}
        return nnx.BatchNorm(config["C"], rngs=nnx.Rngs(0), **options)

    def call(self, layer: Any, inputs: Mapping[str, Any], config: Config) -> Any:
        return layer(inputs["x"]).astype(config["dtype"])


class KerasDefaults(Keras):
    settings: Config = {}


class LinenDefaults(Linen):
    settings: Config = {}


class NnxDefaults(Nnx):
    settings: Config = {}


def _quiet(rng: Rng, config: Config) -> Arrays:
    """Draw small variances, beside which eps counts; smaller ones would be rounding noise in float16."""
    return {
        "x": 0.06 * rng.normal(size=[config[axis] for axis in "NCHW"]),
        "mean": 0.02 * rng.normal(size=(config["C"],)),
        "var": rng.uniform(2e-3, 6e-3, (config["C"],)),
    }


TRAINING = {"training": True}

SPEC = Spec(
    "BatchNorm",
    layout="NCHW",
    weights={"scale": normal("C", 0.5, 1.0), "bias": "C"},
    state={"mean": "C", "var": uniform("C", 0.5, 2.0)},
    runners={
        "torch": Torch,
        "keras-tensorflow": Keras,
        "keras-jax": Keras,
        "keras-torch": KerasTorch,
        "linen": Linen,
        "nnx": Nnx,
    },
    reference=Torch,
    config={"C": 20, "training": False},
    cases=(
        Case("inference", "by the running statistics"),
        Case("training", "by the batch's statistics, and the running ones after it", TRAINING),
        Case("small-batch", "in training on 6 values a channel: n - 1 and n differ", {**TRAINING, "H": 3, "W": 1}),
        Case("quiet", "in training with variances beside which eps counts", TRAINING, draw=_quiet),
    ),
    training=Training(steps=10, optimizer="momentum", rate=1e-3, cases=("training",)),
)
DEFAULTS = replace(
    SPEC,
    name="BatchNorm, each framework's defaults",
    runners={"torch": TorchDefaults, "keras": KerasDefaults, "linen": LinenDefaults, "nnx": NnxDefaults},
    cases=(
        SPEC.case("inference"),
        SPEC.case("small-batch"),
        Case("quiet-inference", "at inference with variances beside which eps counts", draw=_quiet),
    ),
)
