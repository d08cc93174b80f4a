"""Training mode: both models are called in one mode, by the argument that each has for it, or are refused."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from flax import nnx

from eca_multi.parity import ParityError, SpecError, assert_ported

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32) + 1
NAMES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var: load only"}
LINEN = {f"{'params' if name in ('scale', 'bias') else 'batch_stats'}/norm/{name}": t for name, t in NAMES.items()}
VARIABLES = {
    "params": {"norm": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}},
    "batch_stats": {"norm": {"mean": jnp.zeros(3), "var": jnp.ones(3)}},
}


class Train(nn.Module):
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train=False):
        return nn.BatchNorm(momentum=self.momentum, epsilon=1e-5, name="norm")(x, use_running_average=not train)


class Average(nn.Module):
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, use_running_average=True):
        return nn.BatchNorm(use_running_average, momentum=self.momentum, epsilon=1e-5, name="norm")(x)


class Field(nn.Module):
    deterministic: bool = True
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(self.deterministic, momentum=self.momentum, epsilon=1e-5, name="norm")(x)


class Phase(nn.Module):
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, phase="test"):
        return nn.BatchNorm(phase == "test", momentum=self.momentum, epsilon=1e-5, name="norm")(x)


@pytest.mark.parametrize("kind", [Train, Average, Field])
def test_linen_is_called_as_in_training_by_the_argument_that_it_has(kind):
    with warnings.catch_warnings(action="error"):  # what is loaded only is told, and no warning names it
        report = assert_ported(torch.nn.BatchNorm1d(3), (kind(), VARIABLES), X, map=LINEN, training=True)
    assert {"y", "dx", "dweight", "dbias", "new_running_mean"} == {cell.tensor for cell in report.compared}
    with pytest.raises(ParityError, match=r"compare the momentum(.|\n)*new_running_mean: EXCEEDS_BUDGET"):
        assert_ported(torch.nn.BatchNorm1d(3), (kind(momentum=0.1), VARIABLES), X, map=LINEN, training=True)


def test_without_training_modes_that_differ_are_refused_and_the_remedy_works():
    pair = torch.nn.BatchNorm1d(3), (Train(), VARIABLES)
    with pytest.raises(SpecError, match=r"same mode.*the reference in training mode.*Say training=False or training="):
        assert_ported(*pair, X)
    report = assert_ported(*pair, X, map=LINEN, training=False)
    assert not [cell for cell in report.cells if cell.tensor.startswith("new_")]


def test_keywords_of_the_call_say_the_mode():
    layer = torch.nn.BatchNorm1d(3)
    assert_ported(layer, (Train(), VARIABLES, {"train": True}), X, map=LINEN)
    assert_ported(layer, (Phase(), VARIABLES, {"phase": "train"}), X, map=LINEN)  # a name of its own is believed
    with pytest.raises(ParityError, match="port float32"):  # and compared
        assert_ported(layer, (Phase(), VARIABLES, {"phase": "test"}), X, map=LINEN)
    with pytest.raises(SpecError, match="the port in training mode, at train=True, and not the other"):
        assert_ported(torch.nn.BatchNorm1d(3).eval(), (Train(), VARIABLES, {"train": True}), X, map=LINEN)
    with pytest.raises(SpecError, match=r"must say the mode that training=False asks for. Received: train=True"):
        assert_ported(layer, (Train(), VARIABLES, {"train": True}), X, map=LINEN, training=False)


def test_a_mode_that_cannot_be_given_is_refused():
    with pytest.raises(SpecError, match=r"Phase \(linen\) must have an argument that says training \(train, .*'phase'"):
        assert_ported(torch.nn.BatchNorm1d(3), (Phase(), VARIABLES), X, training=True)
    with pytest.raises(SpecError, match=r"<lambda> \(jax\) must have an argument that says training"):
        assert_ported(torch.nn.ReLU(), (lambda p, x: x * p, jnp.ones(3)), X, training=True)
    with pytest.raises(TypeError, match=r"training must be True, False or None. Received: str"):
        assert_ported(torch.nn.ReLU(), torch.nn.ReLU(), X, training="yes")


def test_torch_nnx_and_functions_are_put_into_the_mode_and_stay_as_they_are():
    layer, port = torch.nn.BatchNorm1d(3).eval(), nnx.BatchNorm(3, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0))
    port.eval()
    report = assert_ported(layer, port, X, map=NAMES, training=True)
    assert "new_running_mean" in {cell.tensor for cell in report.compared}
    assert not layer.training
    assert port.use_running_average

    def norm(p, x, train=False):
        mean, var = (x.mean(0), x.var(0)) if train else (0.0, 1.0)
        return (x - mean) * (var + 1e-5) ** -0.5 * p["w"] + p["b"]

    function = norm, {"w": jnp.ones(3), "b": jnp.zeros(3)}
    for training in (True, False):
        with warnings.catch_warnings(action="ignore"):  # of the statistics, which no map pairs
            assert_ported(layer, function, X, training=training)
    with pytest.raises(ParityError, match="port float32"):  # the control: the mode makes the difference
        assert_ported(layer, (lambda p, x, train: norm(p, x), function[1]), X, training=True)


@pytest.mark.keras
def test_a_keras_model_is_called_with_training():
    import keras

    def model(momentum):
        norm = keras.layers.BatchNormalization(momentum=momentum, epsilon=1e-5, name="norm")
        return keras.Sequential([keras.Input((3,)), norm, keras.layers.ReLU()])

    names = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), NAMES.values(), strict=True))
    entries = {f"norm/{name}": f"0.{text}" for name, text in names.items()}
    layer, right = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ReLU()), model(0.9)
    report = assert_ported(layer, right, X, map=entries, training=True)
    assert "new_0.running_mean" in {cell.tensor for cell in report.compared}
    assert not np.any(right.layers[0].moving_mean.numpy() if hasattr(right.layers[0].moving_mean, "numpy") else 0)
    with pytest.raises(ParityError, match=r"new_0.running_mean: EXCEEDS_BUDGET"):
        assert_ported(layer, model(0.1), X, map=entries, training=True)
    with pytest.raises(SpecError, match=r"both models must be in the same mode"):
        assert_ported(layer, right, X, map=entries)
