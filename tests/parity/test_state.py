"""State: what a layer keeps after a call is a result, leaks into no later call, and is not trained."""
# ruff: noqa: RUF012  (an adapter declares its weight map as a class attribute, as users do)

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from eca_multi.parity import (
    Case,
    JaxAdapter,
    KerasAdapter,
    LinenAdapter,
    NnxAdapter,
    Spec,
    SpecError,
    TorchAdapter,
    uniform,
)
from eca_multi.parity.define.tensor import labelled
from tests.support.everything import (
    SPEC,
    Numpy,
    Torch,
    assert_agree,
    engine,
    job_of,
    name_of,
    variant,
)


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
        job, _, results = evaluated(adapter)
    else:
        job = job_of(NORM, config={**job_of(NORM).config, "training": False})
        results = labelled(engine(adapter).evaluate(job))
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
    _, _, results = evaluated(adapter)
    for name in ("y", "new_mean", "new_var", "dx"):
        np.testing.assert_array_equal(results[name].values, results[f"{name}@again"].values)


@pytest.mark.parametrize("adapter", NORMS[:4], ids=name_of)
def test_state_survives_the_frameworks_own_file(adapter):
    job = job_of(NORM)
    results = labelled(engine(adapter).roundtrip(job))
    for name, array in {**job.weights, **job.state}.items():
        np.testing.assert_array_equal(results[name].values, array)


def test_a_torch_function_returns_its_new_state_by_name():
    """As a JAX function does: `test_state_after_the_call_is_a_result[batchnormjax]`."""
    adapter = variant(TorchAdapter, layout="NHWC", build=BatchNormJax.build)
    job = job_of(NORM)
    results, jax = labelled(engine(adapter).evaluate(job)), labelled(engine(BatchNormJax).evaluate(job))
    assert_agree(results, {name: jax[name].values for name in ("y", "new_mean", "new_var")})


@pytest.mark.parametrize(
    ("adapter", "name"),
    [(BatchNormTorch, "running_mean"), pytest.param(BatchNormKeras, "moving_mean", marks=pytest.mark.keras)],
    ids=["torch", "keras"],
)
def test_a_weight_that_the_layer_does_not_train_is_refused_and_named(adapter, name):
    spec = replace(NORM, weights={**NORM.weights, **NORM.state}, state={})
    with pytest.raises(SpecError, match=rf"'{name}' of \w+ must be trained to be the weight 'mean'\. .* Make 'mean' a"):
        labelled(engine(adapter).evaluate(job_of(spec)))


def test_a_frozen_parameter_is_refused_and_named():
    build = {"build": lambda self, config: Torch.build(self, config).requires_grad_(False)}
    with pytest.raises(SpecError, match=r"'dense\.weight' of Torch must be trained to be the weight 'kernel'"):
        labelled(engine(variant(Torch, **build)).evaluate(job_of(SPEC)))
    assert "y" in labelled(engine(variant(Torch, **build)).evaluate(job_of(SPEC, gradients=False)))


@cache
def evaluated(adapter):
    """A job, the same as it was before, and its results: each test looks at one side of the same evaluation."""
    job = job_of(NORM, twice=True)
    return job, deepcopy(job), labelled(engine(adapter).evaluate(job))


@pytest.mark.parametrize("mapped", [True, False], ids=["None", "forgotten"])
def test_none_leaves_a_counter_out(mapped):
    adapter = variant(BatchNormTorch, weights={**BatchNormTorch.weights})
    if mapped:
        assert "new_mean" in labelled(engine(adapter).evaluate(job_of(NORM)))
    else:
        del adapter.weights["num_batches_tracked"]
        with pytest.raises(SpecError, match=r"no 'num_batches_tracked'\. Map it to .* or to None to leave it out"):
            labelled(engine(adapter).evaluate(job_of(NORM)))
