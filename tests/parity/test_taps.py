"""Taps inside of layers, on sub-layers of any depth, and on sub-layers of several outputs."""
# ruff: noqa: RUF012  (an adapter declares its weight map as a class attribute, as users do)

from dataclasses import replace

import numpy as np
import pytest

from eca_multi.parity import (
    Adapter,
    Case,
    KerasAdapter,
    LinenAdapter,
    NnxAdapter,
    Spec,
    SpecError,
    TorchAdapter,
    tap,
)
from eca_multi.parity.define.tensor import labelled
from tests.support.everything import (
    LAYERS,
    SPEC,
    VECTOR,
    Numpy,
    engine,
    job_of,
    name_of,
    variant,
)


def test_outside_of_the_harness_a_tap_is_its_value():
    value = object()
    assert tap("gate", value) is value


def test_taps_of_a_sub_layer_deeper_down():
    """By a path in each framework's own notation."""

    def build(self, config):
        import torch

        linear = torch.nn.Linear(config["C"], config["O"])
        return torch.nn.Sequential(torch.nn.Sequential(linear, torch.nn.Tanh()), torch.nn.Softplus())

    names = {"0.0.weight": "kernel: C O -> O C", "0.0.bias": "bias"}
    adapter = variant(TorchAdapter, build=build, weights=names, taps={"logits": "0.0", "gate": "0"})
    spec = Spec(
        "Deep",
        "N C",
        weights={"kernel": "C O", "bias": "O"},
        outputs={"y": "N O"},
        config={"O": 5},
        taps=("logits", "gate"),
        runners={},
        reference=Numpy,
        cases=(Case("only"),),
    )
    job = job_of(spec, taps=("logits", "gate"))
    results = labelled(engine(adapter).evaluate(job))
    logits = job.inputs["x"] @ job.weights["kernel"] + job.weights["bias"]
    np.testing.assert_allclose(results["logits"].values, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results["gate"].values, np.tanh(logits), rtol=1e-5, atol=1e-6)
    d_gate = job.cotangents["y"] / (1 + np.exp(-np.tanh(logits)))
    np.testing.assert_allclose(results["d_gate"].values, d_gate, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results["d_logits"].values, d_gate / np.cosh(logits) ** 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adapter", LAYERS, ids=name_of)
def test_a_tap_on_no_sub_layer_is_refused_and_named(adapter):
    with pytest.raises(SpecError, match=r"the taps of \w+ name the sub-layer 'nowhere', which .* not have: .*dense"):
        labelled(engine(variant(adapter, taps={"logits": "nowhere"})).evaluate(job_of(SPEC, taps=("logits",))))


class TupleTorch(TorchAdapter):
    weights = {"inner.w": "w"}
    taps = {"inside": "inner"}

    def build(self, config):
        import torch

        class Inner(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.w = torch.nn.Parameter(torch.zeros(config["C"]))

            def forward(self, x):
                return x * self.w, None

        class Layer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = Inner()

            def forward(self, x):
                return self.inner(x)[0] ** 2

        return Layer()


class TupleKeras(KerasAdapter):
    weights = {"inner/w": "w"}
    taps = {"inside": "inner"}

    def build(self, config):
        import keras

        class Inner(keras.layers.Layer):
            def build(self, shape):
                self.w = self.add_weight(shape=(shape[-1],), name="w")

            def call(self, x):
                return x * self.w, x

        class Layer(keras.layers.Layer):
            def __init__(self):
                super().__init__()
                self.inner = Inner(name="inner")

            def call(self, x):
                return self.inner(x)[0] ** 2

        return Layer()

    call = Adapter.call


class TupleLinen(LinenAdapter):
    weights = {"params/inner/w": "w"}
    taps = {"inside": "inner"}

    def build(self, config):
        from flax import linen as nn

        class Inner(nn.Module):
            @nn.compact
            def __call__(self, x):
                return x * self.param("w", nn.initializers.zeros, x.shape[-1:]), None

        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x):
                return Inner(name="inner")(x)[0] ** 2

        return Layer()


class TupleNnx(NnxAdapter):
    weights = {"inner.w": "w"}
    taps = {"inside": "inner"}

    def build(self, config):
        import jax.numpy as jnp
        from flax import nnx

        class Inner(nnx.Module):
            def __init__(self):
                self.w = nnx.Param(jnp.zeros(config["C"]))

            def __call__(self, x):
                return x * self.w, None

        class Layer(nnx.Module):
            def __init__(self):
                self.inner = Inner()

            def __call__(self, x):
                return self.inner(x)[0] ** 2

        return Layer()


@pytest.mark.parametrize(
    "adapter",
    [TupleTorch, pytest.param(TupleKeras, marks=pytest.mark.keras), TupleLinen, TupleNnx],
    ids=name_of,
)
def test_a_tap_on_a_sub_layer_of_several_outputs_takes_the_first(adapter):
    job = job_of(replace(VECTOR, taps=("inside",)), taps=("inside",))
    results = labelled(engine(adapter).evaluate(job))
    inside = job.inputs["x"] * job.weights["w"]
    np.testing.assert_allclose(results["inside"].values, inside, rtol=1e-6)
    np.testing.assert_allclose(results["d_inside"].values, 2 * inside * job.cotangents["y"], rtol=1e-6)
