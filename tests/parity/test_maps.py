"""Adapters through the real engines, all in this process: what a layer gets, and what comes back, under its right name.

One layer with everything in it, written once for each framework: axes in two orders, a transposed square kernel (which
fits both ways round), a mask, an integer input, two outputs, and two taps. Its results and gradients are known by hand.
Keras runs on the backend of this process.
"""
# ruff: noqa: RUF012  (an adapter declares its weight map as a class attribute, as users do)

from copy import deepcopy
from dataclasses import replace
from functools import cache
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
    SpecError,
    TorchAdapter,
    Training,
    booleans,
    integers,
    tap,
    uniform,
)
from eca_multi.parity.define.spec import draw
from eca_multi.parity.engines import ENGINES
from eca_multi.parity.engines.base import Unsupported
from eca_multi.parity.execute.tasks import base_job, training_job
from eca_multi.parity.judge.trajectories import runner_run

# --- the layer -----------------------------------------------------------------------------------------------------


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
    """The layer as a function, in whatever arrays have NumPy's operators."""

    def layer(inputs, weights):
        x, valid = inputs["x"], inputs["mask"][..., None]
        pooled = (x * valid).sum((1, 2)) / valid.sum((1, 2))
        logits = tap("logits", pooled @ weights["kernel"] + weights["bias"])
        gate = tap("gate", sigmoid(logits + inputs["label"][:, None]))
        return {"y": x * gate[:, None, None, :], "score": gate.mean(1)}

    return layer


class Function(TorchAdapter):
    """The fifth way of PyTorch: a function that holds no weights."""

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
    """Outputs, taps and gradients of the layer, with the axes in the order N, H, W, C."""
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


# No framework's own order, so that every one of them has to move axes.
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
    """The results by hand, in float64 and in the specification's order of axes."""
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


# --- what a layer gets and what comes back -------------------------------------------------------------------------


@cache
def evaluated(adapter, spec):
    """A job, the same as it was before, and its results: each test looks at one side of the same evaluation."""
    job = job_of({"SPEC": SPEC, "NORM": NORM}[spec], twice=True)
    return job, deepcopy(job), engine(adapter).evaluate(job)


@pytest.mark.parametrize("adapter", ALL, ids=name_of)
def test_results_and_gradients_come_back_under_their_names_in_the_specifications_order(adapter):
    job, _, results = evaluated(adapter, "SPEC")
    results = {name: tensor for name, tensor in results.items() if not name.endswith("@again")}
    truth = without_taps(expected(job))
    truth |= {f"{n}@ones": a for n, a in expected(job, ones=True).items() if n in ("dx", "dkernel", "dbias")}
    assert set(results) == set(truth)  # taps were not asked for
    assert_agree(results, truth)


@pytest.mark.parametrize("adapter", [a for a in ALL if a is not Numpy], ids=name_of)
def test_taps_and_their_gradients_come_from_sub_layers_and_from_tap(adapter):
    job = job_of(SPEC, taps=("logits", "gate"))
    assert_agree(engine(adapter).evaluate(job), expected(job))


@pytest.mark.parametrize("adapter", [Torch, pytest.param(Keras, marks=pytest.mark.keras), Jax, Numpy], ids=name_of)
def test_without_gradients_there_are_outputs_alone(adapter):
    assert set(engine(adapter).evaluate(job_of(SPEC, gradients=False))) == {"y", "score"}


@pytest.mark.parametrize("adapter", ALL, ids=name_of)
def test_a_second_run_on_the_same_data_has_the_same_bits(adapter):
    _, _, results = evaluated(adapter, "SPEC")
    for name in ("y", "score", "dx", "dkernel", "dbias"):
        np.testing.assert_array_equal(results[name].values, results[f"{name}@again"].values)


@pytest.mark.parametrize("wrong", ["kernel: C O -> C O", "kernel"])
def test_a_square_kernel_that_is_not_transposed_is_seen(wrong):
    """The control: what fits by its shape alone does not pass."""
    job = job_of(SPEC)
    adapter = variant(Torch, weights={**Torch.weights, "dense.weight": wrong})
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_agree(engine(adapter).evaluate(job), without_taps(expected(job)))


@pytest.mark.parametrize("layout", ["NCWH", "NWHC"])
def test_a_mask_in_another_order_is_seen(layout):
    """H and W exchanged, for the input and its mask alike, is the same layer; for one of them it is not."""
    adapter = variant(Function, layout=layout) if layout == "NWHC" else variant(Torch, layout=layout)
    job = job_of(SPEC)
    assert_agree(engine(adapter).evaluate(job), without_taps(expected(job)))
    spoilt = replace(job, axes={**job.axes, "mask": ("H", "N", "W")})
    with pytest.raises(Exception, match=r"must match the size|could not broadcast|Not equal"):
        assert_agree(engine(adapter).evaluate(spoilt), without_taps(expected(job)))


@pytest.mark.parametrize("adapter", ALL, ids=name_of)
def test_the_inputs_of_a_job_are_left_as_they_are(adapter):
    job, before, _ = evaluated(adapter, "SPEC")
    for group in ("inputs", "weights", "cotangents"):
        for name, array in getattr(before, group).items():
            np.testing.assert_array_equal(getattr(job, group)[name], array)


@pytest.mark.parametrize("adapter", LAYERS, ids=name_of)
def test_weights_survive_the_frameworks_own_file_bit_for_bit(adapter):
    job = job_of(SPEC)
    results = engine(adapter).roundtrip(job)
    assert set(results) == {"kernel", "bias"}
    for name, tensor in results.items():
        np.testing.assert_array_equal(tensor.values, job.weights[name])


@pytest.mark.parametrize("adapter", [Torch, Linen, Nnx], ids=name_of)
def test_inputs_are_passed_in_the_specifications_order(adapter):
    """By the adapter's own `call`, which passes them by position."""
    job = job_of(SPEC)
    plain = variant(adapter, call=Adapter.call)
    assert_agree(engine(plain).evaluate(job), without_taps(expected(job)))


# --- outputs that are not as declared ------------------------------------------------------------------------------


def test_too_few_outputs_are_refused():
    adapter = variant(Torch, call=lambda self, layer, inputs, config: layer(*inputs.values())[0])
    with pytest.raises(SpecError, match=r"Torch must return y, score\. Received: 1 values"):
        engine(adapter).evaluate(job_of(SPEC))


def test_an_output_of_another_rank_comes_back_as_it_is():
    adapter = variant(Torch, call=lambda self, layer, inputs, config: (inputs["x"].sum(), layer(*inputs.values())[1]))
    assert engine(adapter).evaluate(job_of(SPEC))["y"].values.shape == ()


def test_a_weight_that_nothing_depends_on_has_gradient_zero():
    adapter = variant(Torch, call=lambda self, layer, inputs, config: (inputs["x"] * 2, inputs["x"].mean((1, 2, 3))))
    results = engine(adapter).evaluate(job_of(SPEC))
    assert not results["dkernel"].values.any()
    assert results["dx"].values.any()


# --- the weight map ------------------------------------------------------------------------------------------------

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
        ("an unknown native name", r"the weight map of \w+ names 'scale', which the layer does not have: .*{bias}"),
        ("an unknown weight", r"the weight map of \w+ must lead to kernel, bias\. Received: 'shift'"),
        ("a weight without a parameter", r"the weight map of \w+ must use every weight and state.* none to 'shift'"),
        ("a weight used twice", r"the weight map of \w+ must use 'kernel' once\. Received: 2 times"),
        ("another shape", r"'{bias}' of \w+ must have the shape that the map gives, \(12, 3\)\. Received: \(12,\)"),
        ("no permutation", r"'{kernel}' of \w+: a rearrangement must be a permutation"),
        ("no arrow", r"'{kernel}' of \w+ must map as 'name: axes -> axes'\. Received: 'kernel: C O'"),
    ],
)
def test_a_fault_in_the_map_is_refused_and_named(adapter, fault, message):
    kernel, bias = adapter.weights
    wrong, spec = faulty(adapter, fault)
    with pytest.raises(SpecError, match=message.format(kernel=kernel, bias=bias)):
        engine(wrong).evaluate(job_of(spec))


def test_the_left_side_of_a_map_has_the_weights_axes():
    adapter = variant(Torch, weights={**Torch.weights, "dense.bias": "bias: 1 O -> O"})
    with pytest.raises(SpecError, match=r"the array must have the axes '1 O'\. Received: shape \(12,\)"):
        engine(adapter).evaluate(job_of(SPEC))


@pytest.mark.parametrize("adapter", [Function, Jax, Numpy], ids=name_of)
def test_a_function_gets_each_weight_in_its_own_order(adapter):
    """Of the right names and shapes it has none of its own, so the map makes them."""

    def build(self, config):
        return lambda inputs, weights: {"y": inputs["x"], "score": weights["k"].sum((1, 2)) + weights["b"].sum()}

    odd = variant(adapter, weights={"k": "kernel: C O -> O 1 C", "b": "bias"}, build=build)
    spec = replace(SPEC, outputs={"y": "CNWH", "score": "O"})
    job = job_of(spec, gradients=False)
    score = engine(odd).evaluate(job)["score"].values
    np.testing.assert_allclose(score, job.weights["kernel"].sum(0) + job.weights["bias"].sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adapter", [Function, Jax, Numpy], ids=name_of)
def test_a_fault_in_the_map_of_a_function_is_refused(adapter):
    with pytest.raises(SpecError, match=r"must use every weight and state\. Received: none to 'bias'"):
        engine(variant(adapter, weights={"k": "kernel"})).evaluate(job_of(SPEC))


# --- what a layer does not take as it is given ---------------------------------------------------------------------

VECTOR = Spec("Vector", "N C", weights={"w": "C"}, runners={}, reference=Numpy, cases=(Case("only"),))


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
        engine(_whole("int64")).evaluate(job_of(VECTOR, gradients=False))
    engine(_whole("float32")).evaluate(job_of(VECTOR, gradients=False))


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
        engine(build_with("float16")).evaluate(job_of(VECTOR))
    engine(build_with("float32")).evaluate(job_of(VECTOR))


@pytest.mark.parametrize("mapped", [True, False], ids=["None", "forgotten"])
def test_none_leaves_a_counter_out(mapped):
    adapter = variant(BatchNormTorch, weights={**BatchNormTorch.weights})
    if mapped:
        assert "new_mean" in engine(adapter).evaluate(job_of(NORM))
    else:
        del adapter.weights["num_batches_tracked"]
        with pytest.raises(SpecError, match=r"no 'num_batches_tracked'\. Map it to .* or to None to leave it out"):
            engine(adapter).evaluate(job_of(NORM))


def test_none_does_not_stand_for_a_weight():
    adapter = variant(Torch, weights={**Torch.weights, "dense.bias": None})
    with pytest.raises(SpecError, match=r"must use every weight and state\. Received: none to 'bias'"):
        engine(adapter).evaluate(job_of(SPEC))


SCALAR = Spec("Scalar", "N C", weights={"w": ""}, runners={}, reference=Numpy, cases=(Case("only"),))


def _scaled(self, config):
    return lambda inputs, weights: inputs["x"] * weights["w"]


@pytest.mark.parametrize("adapter", [TorchAdapter, JaxAdapter, NumpyAdapter], ids=name_of)
def test_a_weight_may_be_a_scalar(adapter):
    job = job_of(SCALAR)
    results = engine(variant(adapter, build=_scaled)).evaluate(job)
    np.testing.assert_allclose(results["y"].values, job.inputs["x"] * job.weights["w"], rtol=1e-6)


def test_a_torch_function_may_have_weights_with_dots_in_their_names():
    spec = replace(VECTOR, weights={"conv.weight": "C"})
    build = {"build": lambda self, config: lambda inputs, weights: inputs["x"] * weights["conv.weight"]}
    assert "dconv.weight" in engine(variant(TorchAdapter, **build)).evaluate(job_of(spec))


def test_gradients_of_a_numpy_adapter_have_the_documented_names():
    def gradients(self, inputs, weights, cotangents, config):
        return {"dx": cotangents["y"] * weights["w"], "dw": (cotangents["y"] * inputs["x"]).sum(0)}

    results = engine(variant(NumpyAdapter, build=_scaled, gradients=gradients)).evaluate(job_of(VECTOR))
    assert {"dx", "dw"} <= set(results)


def test_what_has_no_gradients_is_not_trained_and_says_so():
    adapter, spec = engine(variant(NumpyAdapter, build=_scaled)), replace(VECTOR, training=Training(steps=1))
    job = training_job(spec, spec.cases[0], draw(spec, spec.cases[0]), "float32")
    job = replace(job, given={"w.w": job.weights["w"][None]})
    with pytest.raises(Unsupported, match="the adapter computes no gradient of w, without which nothing is trained"):
        runner_run(adapter, job)


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
        engine(variant(KerasAdapter, build=build, weights={"dense/kernel": "w"})).evaluate(job_of(spec))


# --- state ---------------------------------------------------------------------------------------------------------


class BatchNormTorch(TorchAdapter):
    layout = "NCHW"
    unbiased = True  # what becomes the running variance; torch alone divides by n - 1
    weights = {
        "weight": "scale",
        "bias": "shift",
        "running_mean": "mean",
        "running_var": "var",
        "num_batches_tracked": None,
    }

    def build(self, config):
        import torch

        return torch.nn.BatchNorm2d(config["C"], eps=1e-3, momentum=0.25)


class BatchNormKeras(KerasAdapter):
    layout = "NHWC"
    unbiased = False
    weights = {"gamma": "scale", "beta": "shift", "moving_mean": "mean", "moving_variance": "var"}

    def build(self, config):
        import keras

        return keras.layers.BatchNormalization(epsilon=1e-3, momentum=0.75)


class BatchNormLinen(LinenAdapter):
    layout = "NHWC"
    unbiased = False
    weights = {
        "params/scale": "scale",
        "params/bias": "shift",
        "batch_stats/mean": "mean",
        "batch_stats/var": "var",
    }

    def build(self, config):
        from flax import linen as nn

        return nn.BatchNorm(use_running_average=not config["training"], epsilon=1e-3, momentum=0.75)


class BatchNormNnx(NnxAdapter):
    layout = "NHWC"
    unbiased = False
    weights = {"scale": "scale", "bias": "shift", "mean": "mean", "var": "var"}

    def build(self, config):
        from flax import nnx

        return nnx.BatchNorm(config["C"], epsilon=1e-3, momentum=0.75, rngs=nnx.Rngs(0))


class BatchNormJax(JaxAdapter):
    """A function keeps nothing; it returns its new state by name."""

    layout = "NHWC"
    unbiased = False

    def build(self, config):
        def layer(inputs, weights):
            x, mean, var = inputs["x"], weights["mean"], weights["var"]
            new = {"new_mean": mean, "new_var": var}
            if config["training"]:
                mean = x.mean((0, 1, 2))
                var = ((x - mean) ** 2).mean((0, 1, 2))
                new = {f"new_{n}": 0.75 * weights[n] + 0.25 * now for n, now in (("mean", mean), ("var", var))}
            return {"y": (x - mean) / (var + 1e-3) ** 0.5 * weights["scale"] + weights["shift"], **new}

        return layer


NORM = Spec(
    "BatchNorm",
    layout="NCHW",
    weights={"scale": "C", "shift": "C"},
    state={"mean": "C", "var": uniform("C", 0.5, 2.0)},
    config={"C": 4, "training": True},
    runners={},
    reference=Numpy,
    cases=(Case("only"),),
)
NORMS = [
    BatchNormTorch,
    pytest.param(BatchNormKeras, marks=pytest.mark.keras),
    BatchNormLinen,
    BatchNormNnx,
    BatchNormJax,
]


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("adapter", NORMS, ids=name_of)
def test_state_after_the_call_is_a_result(adapter, training):
    if training:
        job, _, results = evaluated(adapter, "NORM")
    else:
        job = job_of(NORM, config={**job_of(NORM).config, "training": False})
        results = engine(adapter).evaluate(job)
    x, old = job.inputs["x"].astype(np.float64), {n: a.astype(np.float64) for n, a in job.state.items()}
    new, used = dict(old), old
    if training:
        used = {"mean": x.mean((0, 2, 3)), "var": x.var((0, 2, 3))}
        kept = {**used, "var": x.var((0, 2, 3), ddof=adapter.unbiased)}
        new = {n: 0.75 * old[n] + 0.25 * kept[n] for n in old}
    column = (slice(None), None, None)
    y = (x - used["mean"][column]) / np.sqrt(used["var"][column] + 1e-3) * job.weights["scale"][column]
    truth = {"y": y + job.weights["shift"][column], **{f"new_{n}": a for n, a in new.items()}}
    assert_agree(results, truth)
    assert {"dx", "dscale", "dshift"} <= set(results)
    assert not {"dmean", "dvar"} & set(results)  # state is not trained


@pytest.mark.parametrize("adapter", NORMS, ids=name_of)
def test_state_does_not_leak_into_the_next_evaluation(adapter):
    _, _, results = evaluated(adapter, "NORM")
    for name in ("y", "new_mean", "new_var", "dx"):
        np.testing.assert_array_equal(results[name].values, results[f"{name}@again"].values)


@pytest.mark.parametrize("adapter", NORMS[:4], ids=name_of)
def test_state_survives_the_frameworks_own_file(adapter):
    job = job_of(NORM)
    results = engine(adapter).roundtrip(job)
    for name, array in {**job.weights, **job.state}.items():
        np.testing.assert_array_equal(results[name].values, array)


def test_a_torch_function_returns_its_new_state_by_name():
    """As a JAX function does: `test_state_after_the_call_is_a_result[batchnormjax]`."""
    adapter = variant(TorchAdapter, layout="NHWC", build=BatchNormJax.build)
    job = job_of(NORM)
    results, jax = engine(adapter).evaluate(job), engine(BatchNormJax).evaluate(job)
    assert_agree(results, {name: jax[name].values for name in ("y", "new_mean", "new_var")})


@pytest.mark.parametrize(
    ("adapter", "name"),
    [(BatchNormTorch, "running_mean"), pytest.param(BatchNormKeras, "moving_mean", marks=pytest.mark.keras)],
    ids=["torch", "keras"],
)
def test_a_weight_that_the_layer_does_not_train_is_refused_and_named(adapter, name):
    spec = replace(NORM, weights={**NORM.weights, **NORM.state}, state={})
    with pytest.raises(SpecError, match=rf"'{name}' of \w+ must be trained to be the weight 'mean'\. .* Make 'mean' a"):
        engine(adapter).evaluate(job_of(spec))


def test_a_frozen_parameter_is_refused_and_named():
    build = {"build": lambda self, config: Torch.build(self, config).requires_grad_(False)}
    with pytest.raises(SpecError, match=r"'dense\.weight' of Torch must be trained to be the weight 'kernel'"):
        engine(variant(Torch, **build)).evaluate(job_of(SPEC))
    assert "y" in engine(variant(Torch, **build)).evaluate(job_of(SPEC, gradients=False))


# --- taps ----------------------------------------------------------------------------------------------------------


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
    results = engine(adapter).evaluate(job)
    logits = job.inputs["x"] @ job.weights["kernel"] + job.weights["bias"]
    np.testing.assert_allclose(results["logits"].values, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results["gate"].values, np.tanh(logits), rtol=1e-5, atol=1e-6)
    d_gate = job.cotangents["y"] / (1 + np.exp(-np.tanh(logits)))
    np.testing.assert_allclose(results["d_gate"].values, d_gate, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results["d_logits"].values, d_gate / np.cosh(logits) ** 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adapter", LAYERS, ids=name_of)
def test_a_tap_on_no_sub_layer_is_refused_and_named(adapter):
    with pytest.raises(SpecError, match=r"the taps of \w+ name the sub-layer 'nowhere', which .* not have: .*dense"):
        engine(variant(adapter, taps={"logits": "nowhere"})).evaluate(job_of(SPEC, taps=("logits",)))


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
    results = engine(adapter).evaluate(job)
    inside = job.inputs["x"] * job.weights["w"]
    np.testing.assert_allclose(results["inside"].values, inside, rtol=1e-6)
    np.testing.assert_allclose(results["d_inside"].values, 2 * inside * job.cotangents["y"], rtol=1e-6)
