"""One layer with everything in it, written once for each framework, and its results by hand.

It has axes in two orders, a transposed square kernel (which fits both ways round), a mask, an integer input, two
outputs and two taps. Keras runs on the backend of this process.
"""
# ruff: noqa: RUF012  (an adapter declares its weight map as a class attribute, as users do)

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from eca_multi.parity import (
    Adapter,
    Case,
    JaxAdapter,
    KerasAdapter,
    LinenAdapter,
    NnxAdapter,
    NumpyAdapter,
    Spec,
    TorchAdapter,
    booleans,
    integers,
    tap,
)
from eca_multi.parity.define.draw import draw
from eca_multi.parity.engines import ENGINES
from eca_multi.parity.execute.tasks import base_job


class Torch(TorchAdapter):
    layout = "NCHW"
    weights = {"dense.weight": "kernel: C O -> O C", "dense.bias": "bias"}
    taps = {"logits": "dense"}

    def build(self, config):
        import torch

        class Layer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.dense = torch.nn.Linear(config["C"], config["O"])

            def forward(self, x, mask, label):
                pooled = (x * mask[:, None]).sum((2, 3)) / mask[:, None].sum((2, 3))
                gate = tap("gate", torch.sigmoid(self.dense(pooled) + label[:, None]))
                return x * gate[..., None, None], gate.mean(1)

        return Layer()


class Keras(KerasAdapter):
    layout = "NHWC"
    weights = {"dense/kernel": "kernel", "dense/bias": "bias"}
    taps = {"logits": "dense"}

    def build(self, config):
        import keras
        from keras import ops

        class Layer(keras.layers.Layer):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(config["O"], name="dense")

            def call(self, x, valid, label):  # not `mask`, which Keras would attach to x
                valid = ops.cast(valid[..., None], x.dtype)
                pooled = ops.sum(x * valid, (1, 2)) / ops.sum(valid, (1, 2))
                gate = tap("gate", ops.sigmoid(self.dense(pooled) + ops.cast(label[:, None], x.dtype)))
                return {"score": ops.mean(gate, 1), "y": x * gate[:, None, None, :]}

        return Layer()

    def call(self, layer, inputs, config):
        return layer(inputs["x"], inputs["mask"], inputs["label"])


class Linen(LinenAdapter):
    layout = "NHWC"
    weights = {"params/dense/kernel": "kernel", "params/dense/bias": "bias"}
    taps = {"logits": "dense"}

    def build(self, config):
        from flax import linen as nn

        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x, mask, label):
                pooled = (x * mask[..., None]).sum((1, 2)) / mask[..., None].sum((1, 2))
                gate = tap("gate", nn.sigmoid(nn.Dense(config["O"], name="dense")(pooled) + label[:, None]))
                return x * gate[:, None, None, :], gate.mean(1)

        return Layer()

    def call(self, layer, inputs, config):
        return layer(inputs["x"], inputs["mask"], inputs["label"])


class Nnx(NnxAdapter):
    layout = "NHWC"
    weights = {"dense.kernel": "kernel", "dense.bias": "bias"}
    taps = {"logits": "dense"}

    def build(self, config):
        from flax import nnx

        class Layer(nnx.Module):
            def __init__(self, rngs):
                self.dense = nnx.Linear(config["C"], config["O"], rngs=rngs)

            def __call__(self, x, mask, label):
                pooled = (x * mask[..., None]).sum((1, 2)) / mask[..., None].sum((1, 2))
                gate = tap("gate", nnx.sigmoid(self.dense(pooled) + label[:, None]))
                return x * gate[:, None, None, :], gate.mean(1)

        return Layer(nnx.Rngs(0))


def _function(sigmoid):
    """Return the layer as a function on any arrays that have NumPy's operators."""

    def layer(inputs, weights):
        x, valid = inputs["x"], inputs["mask"][..., None]
        pooled = (x * valid).sum((1, 2)) / valid.sum((1, 2))
        logits = tap("logits", pooled @ weights["kernel"] + weights["bias"])
        gate = tap("gate", sigmoid(logits + inputs["label"][:, None]))
        return {"y": x * gate[:, None, None, :], "score": gate.mean(1)}

    return layer


class Function(TorchAdapter):
    """PyTorch, as a function that holds no weights."""

    layout = "NHWC"

    def build(self, config):
        import torch

        return _function(torch.sigmoid)


class Jax(JaxAdapter):
    layout = "NHWC"

    def build(self, config):
        import jax

        return _function(jax.nn.sigmoid)


class Numpy(NumpyAdapter):
    layout = "NHWC"

    def build(self, config):
        layer = _function(lambda logits: 1 / (1 + np.exp(-logits)))
        # NumPy takes float32 and integers to float64.
        return lambda inputs, weights: layer({n: a.astype(inputs["x"].dtype) for n, a in inputs.items()}, weights)

    def gradients(self, inputs, weights, cotangents, config):
        solved = by_hand({n: a.astype(inputs["x"].dtype) for n, a in inputs.items()}, weights, cotangents)
        return {f"d{name}": solved[f"d{name}"] for name in ("x", "kernel", "bias")}


def by_hand(inputs, weights, cotangents):
    """Return outputs, taps and gradients of the layer, with the axes in the order N, H, W, C."""
    x, valid = inputs["x"], inputs["mask"][..., None]
    pooled = (x * valid).sum((1, 2)) / valid.sum((1, 2))
    logits = pooled @ weights["kernel"] + weights["bias"]
    gate = 1 / (1 + np.exp(-logits - inputs["label"][:, None]))
    d_gate = (cotangents["y"] * x).sum((1, 2)) + cotangents["score"][:, None] / gate.shape[1]
    d_logits = d_gate * gate * (1 - gate)
    spread = valid * ((d_logits @ weights["kernel"].T) / valid.sum((1, 2)))[:, None, None, :]
    return {
        "y": x * gate[:, None, None, :],
        "score": gate.mean(1),
        "logits": logits,
        "gate": gate,
        "d_gate": d_gate,
        "d_logits": d_logits,
        "dx": cotangents["y"] * gate[:, None, None, :] + spread,
        "dkernel": pooled.T @ d_logits,
        "dbias": d_logits.sum(0),
    }


# The order of axes is no framework's own, so every engine has to move axes.
SPEC = Spec(
    "Everything",
    layout="CNWH",
    inputs={"x": "CNWH", "mask": booleans("WNH", 0.7), "label": integers("N", -1, 2)},
    outputs={"y": "CNWH", "score": "N"},
    weights={"kernel": "C O", "bias": "O"},
    config={"N": 3, "O": 12},
    taps=("logits", "gate"),
    runners={},
    reference=Numpy,
    cases=(Case("only"),),
)

LAYERS = [Torch, pytest.param(Keras, marks=pytest.mark.keras), Linen, Nnx]

ALL = [*LAYERS, Function, Jax, Numpy]


def name_of(adapter):
    return adapter.__name__.lower()


def engine(adapter: type[Adapter]):
    module, _, name = ENGINES[adapter.engine].partition(":")
    return getattr(import_module(module), name)(adapter())


def job_of(spec: Spec, dtype="float32", **changes):
    case = spec.cases[0]
    return replace(base_job(spec, case, draw(spec, case), dtype), **changes)


def variant(base: type[Adapter], **attributes) -> type[Adapter]:
    return type(base.__name__, (base,), attributes)


def expected(job, ones=False):
    """Return the results by hand, in float64 and in the specification's order of axes."""
    to = {"x": (1, 3, 2, 0), "mask": (1, 2, 0), "y": (1, 3, 2, 0)}
    inputs = {n: a.transpose(to[n]) if n in to else a for n, a in job.inputs.items()}
    inputs["x"] = inputs["x"].astype(np.float64)
    weights = {n: a.astype(np.float64) for n, a in job.weights.items()}
    cotangents = {n: np.ones_like(a) if ones else a for n, a in job.cotangents.items()}
    cotangents = {n: a.transpose(to[n]) if n in to else a for n, a in cotangents.items()}
    solved = by_hand(inputs, weights, cotangents)
    return {n: a.transpose(3, 0, 2, 1) if n in ("y", "dx") else a for n, a in solved.items()}


TAPS = ("logits", "gate", "d_logits", "d_gate")


def without_taps(truth):
    return {name: array for name, array in truth.items() if name not in TAPS}


def assert_agree(results, truth):
    for name, value in truth.items():
        np.testing.assert_allclose(results[name].values, value, rtol=2e-5, atol=2e-5, err_msg=name, strict=False)
        assert results[name].values.shape == value.shape
        assert results[name].dtype == "float32"


VECTOR = Spec("Vector", "N C", weights={"w": "C"}, runners={}, reference=Numpy, cases=(Case("only"),))
