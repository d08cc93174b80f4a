"""Weight maps: faults are refused and named, and no layer keeps less than it was given."""

from dataclasses import replace

import numpy as np
import pytest

from eca_multi.parity import (
    Case,
    JaxAdapter,
    KerasAdapter,
    NumpyAdapter,
    Spec,
    SpecError,
    TorchAdapter,
    Training,
)
from eca_multi.parity.define.draw import draw
from eca_multi.parity.define.tensor import Kind, Quantity, labelled
from eca_multi.parity.engines.base import Unsupported
from eca_multi.parity.execute.tasks import training_job
from eca_multi.parity.execute.training import train
from tests.support.everything import LAYERS, SPEC, VECTOR, Function, Jax, Numpy, Torch, engine, job_of, name_of, variant

KERNEL = {"Torch": "dense.weight", "Keras": "dense/kernel", "Linen": "params/dense/kernel", "Nnx": "dense.kernel"}


def faulty(adapter, fault):
    """The adapter with a fault in its map, and the specification for it."""
    kernel, (_, bias) = KERNEL[adapter.__name__], adapter.weights
    right = dict(adapter.weights)
    spec = SPEC
    match fault:
        case "a leftover parameter":
            del right[bias]
        case "an unknown native name":
            right["scale"] = "bias"
        case "an unknown weight":
            right[bias] = "shift"
        case "a weight without a parameter":
            spec = replace(SPEC, weights={**SPEC.weights, "shift": "O"})
        case "a weight used twice":
            right[bias] = "kernel"
            spec = replace(SPEC, weights={"kernel": "C O"})
        case "another shape":
            spec = replace(SPEC, weights={"kernel": "C O", "bias": "O k"}, config={**SPEC.config, "k": 3})
        case "no permutation":
            right[kernel] = "kernel: C O -> O C C"
        case "no arrow":
            right[kernel] = "kernel: C O"
    return variant(adapter, weights=right), spec


@pytest.mark.parametrize("adapter", LAYERS, ids=name_of)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("a leftover parameter", r"the weight map of \w+ must name every parameter and buffer\. Received: no '{bias}'"),
        ("an unknown native name", r"the weight map of \w+ names 'scale', which \w+ does not have: .*{bias}"),
        ("an unknown weight", r"the weight map of \w+ must lead to kernel, bias\. Received: 'shift'"),
        ("a weight without a parameter", r"the weight map of \w+ must use every weight and state.* none to 'shift'"),
        ("a weight used twice", r"the weight map of \w+ must use 'kernel' once\. Received: 2 times"),
        ("another shape", r"'{bias}' of \w+ must have the shape that the map gives, \(12, 3\)\. Received: \(12,\)"),
        ("no permutation", r"'{kernel}' of \w+: a rearrangement must be a permutation"),
        ("no arrow", r"'{kernel}' of \w+: it must map as 'name: axes -> axes'\. Received: 'kernel: C O'"),
    ],
)
def test_a_fault_in_the_map_is_refused_and_named(adapter, fault, message):
    kernel, bias = adapter.weights
    wrong, spec = faulty(adapter, fault)
    with pytest.raises(SpecError, match=message.format(kernel=kernel, bias=bias)):
        labelled(engine(wrong).evaluate(job_of(spec)))


def test_the_left_side_of_a_map_has_the_weights_axes():
    adapter = variant(Torch, weights={**Torch.weights, "dense.bias": "bias: 1 O -> O"})
    with pytest.raises(SpecError, match=r"the array must have the axes '1 O'\. Received: shape \(12,\)"):
        labelled(engine(adapter).evaluate(job_of(SPEC)))


@pytest.mark.parametrize("adapter", [Function, Jax, Numpy], ids=name_of)
def test_a_function_gets_each_weight_in_its_own_order(adapter):
    """Of the right names and shapes it has none of its own, so the map makes them."""

    def build(self, config):
        return lambda inputs, weights: {"y": inputs["x"], "score": weights["k"].sum((1, 2)) + weights["b"].sum()}

    odd = variant(adapter, weights={"k": "kernel: C O -> O 1 C", "b": "bias"}, build=build)
    spec = replace(SPEC, outputs={"y": "CNWH", "score": "O"})
    job = job_of(spec, gradients=False)
    score = labelled(engine(odd).evaluate(job))["score"].values
    np.testing.assert_allclose(score, job.weights["kernel"].sum(0) + job.weights["bias"].sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adapter", [Function, Jax, Numpy], ids=name_of)
def test_a_fault_in_the_map_of_a_function_is_refused(adapter):
    with pytest.raises(SpecError, match=r"must use every weight and state\. Received: none to 'bias'"):
        labelled(engine(variant(adapter, weights={"k": "kernel"})).evaluate(job_of(SPEC)))


def _whole(dtype):
    """A PyTorch layer that keeps its weight in a buffer of another dtype."""

    def build(self, config):
        import torch

        layer = torch.nn.Module()
        layer.register_buffer("w", torch.zeros(config["C"], dtype=getattr(torch, dtype)))
        layer.forward = lambda x: x * layer.w
        return layer

    return variant(TorchAdapter, build=build)


def test_a_layer_that_changes_its_weights_is_refused():
    with pytest.raises(SpecError, match="'w' of TorchAdapter must hold 'w' bit for bit after loading"):
        labelled(engine(_whole("int64")).evaluate(job_of(VECTOR, gradients=False)))
    labelled(engine(_whole("float32")).evaluate(job_of(VECTOR, gradients=False)))


@pytest.mark.keras
def test_a_keras_layer_that_keeps_less_than_it_is_given_is_refused():
    def build_with(dtype):
        def build(self, config):
            import keras

            class Layer(keras.layers.Layer):
                def build(self, shape):
                    self.w = self.add_weight(shape=(shape[-1],), dtype=dtype, name="w")

                def call(self, x):
                    return x * keras.ops.cast(self.w, x.dtype)

            return Layer()

        return variant(KerasAdapter, build=build)

    with pytest.raises(SpecError, match="'w' of KerasAdapter must hold 'w' bit for bit after loading"):
        labelled(engine(build_with("float16")).evaluate(job_of(VECTOR)))
    labelled(engine(build_with("float32")).evaluate(job_of(VECTOR)))


def test_none_does_not_stand_for_a_weight():
    adapter = variant(Torch, weights={**Torch.weights, "dense.bias": None})
    with pytest.raises(SpecError, match=r"must use every weight and state\. Received: none to 'bias'"):
        labelled(engine(adapter).evaluate(job_of(SPEC)))


SCALAR = Spec("Scalar", "N C", weights={"w": ""}, runners={}, reference=Numpy, cases=(Case("only"),))


def _scaled(self, config):
    return lambda inputs, weights: inputs["x"] * weights["w"]


@pytest.mark.parametrize("adapter", [TorchAdapter, JaxAdapter, NumpyAdapter], ids=name_of)
def test_a_weight_may_be_a_scalar(adapter):
    job = job_of(SCALAR)
    results = labelled(engine(variant(adapter, build=_scaled)).evaluate(job))
    np.testing.assert_allclose(results["y"].values, job.inputs["x"] * job.weights["w"], rtol=1e-6)


def test_a_torch_function_may_have_weights_with_dots_in_their_names():
    spec = replace(VECTOR, weights={"conv.weight": "C"})
    build = {"build": lambda self, config: lambda inputs, weights: inputs["x"] * weights["conv.weight"]}
    assert "dconv.weight" in labelled(engine(variant(TorchAdapter, **build)).evaluate(job_of(spec)))


def test_gradients_of_a_numpy_adapter_have_the_documented_names():
    def gradients(self, inputs, weights, cotangents, config):
        return {"dx": cotangents["y"] * weights["w"], "dw": (cotangents["y"] * inputs["x"]).sum(0)}

    results = labelled(engine(variant(NumpyAdapter, build=_scaled, gradients=gradients)).evaluate(job_of(VECTOR)))
    assert {"dx", "dw"} <= set(results)


def test_what_has_no_gradients_is_not_trained_and_says_so():
    adapter, spec = engine(variant(NumpyAdapter, build=_scaled)), replace(VECTOR, training=Training(steps=1))
    job = training_job(spec, spec.cases[0], draw(spec, spec.cases[0]), "float32")
    job = replace(job, given={Quantity(Kind.START, "w"): job.weights["w"][None]})
    with pytest.raises(Unsupported, match="the adapter computes no gradient of w, without which nothing is trained"):
        train(adapter, job)


@pytest.mark.keras
def test_two_keras_layers_of_one_name_are_no_leftover_unseen():
    def build(self, config):
        import keras

        class Layer(keras.layers.Layer):
            def __init__(self):
                super().__init__()
                self.first = keras.layers.Dense(config["C"], use_bias=False, name="dense")
                self.second = keras.layers.Dense(config["C"], use_bias=False, name="dense")

            def call(self, x):
                return self.second(self.first(x))

        return Layer()

    spec = replace(VECTOR, weights={"w": "C O"}, config={"O": 12})
    with pytest.raises(SpecError, match=r"a path of its own\. Received: 'dense/kernel' twice\. Give its sub-layers"):
        labelled(engine(variant(KerasAdapter, build=build, weights={"dense/kernel": "w"})).evaluate(job_of(spec)))
