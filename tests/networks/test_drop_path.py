"""Stochastic depth comes after the gate in every framework: drop_path(eca(branch)), and never eca(drop_path(branch)).

Both are the same in inference. In training the second one scales the means, and with them the gates, of what is kept.
"""

from importlib import import_module

import jax
import jax.numpy as jnp
import keras
import pytest
import torch
from flax import linen, nnx

from tests.support.networks_keras import small_networks

BLOCKS = ("tiny_basic", "tiny_mobile")  # residual and inverted blocks


@pytest.fixture(scope="module", autouse=True)
def tables():
    with small_networks():
        yield


def builder(module, name):
    return import_module(f"eca_multi.{module}.networks")._builder(name)


def kind_of(module):
    """Tell the gates and stochastic depth from the other layers, and from the dropout before a classifier."""
    if type(module).__name__ == "DropPath" or str(getattr(module, "name", "")).endswith("drop_path"):
        return "drop_path"
    return "eca" if type(module).__name__ == "ECA" else None


def calls_of_torch(name, monkeypatch):
    model = builder("torch", name)(num_classes=3, drop_path=0.5, device="meta").train()
    calls = []
    for module in model.modules():
        if kind_of(module) is not None and getattr(module, "rate", 1) > 0:
            module.register_forward_pre_hook(lambda module, _: calls.append(kind_of(module)))
    model(torch.empty(2, 3, 32, 32, device="meta"))
    return calls


def calls_of_keras(name, monkeypatch):
    """The order in which the functional model is put together."""
    calls, call = [], keras.layers.Layer.__call__

    def spy(self, *arguments, **options):
        calls.append(kind_of(self))
        return call(self, *arguments, **options)

    monkeypatch.setattr(keras.layers.Layer, "__call__", spy)
    builder("keras", name)(num_classes=3, drop_path=0.5)
    return [call for call in calls if call is not None]


def calls_of_linen(name, monkeypatch):
    model, calls = builder("flax.linen", name)(num_classes=3, drop_path=0.5), []

    def spy(call, arguments, options, context):
        if context.method_name == "__call__":
            calls.append(kind_of(context.module))
        return call(*arguments, **options)

    def run():
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        with linen.intercept_methods(spy):
            return model.init(keys, jnp.ones((2, 32, 32, 3)), train=True)

    jax.eval_shape(run)
    return [call for call in calls if call is not None]


def calls_of_nnx(name, monkeypatch):
    from eca_multi.flax.nnx import ECA
    from eca_multi.flax.nnx._blocks import DropPath

    calls = []
    for layer in (ECA, DropPath):

        def spy(self, *arguments, call=layer.__call__, **options):
            if getattr(self, "rate", 1) > 0:
                calls.append(kind_of(self))
            return call(self, *arguments, **options)

        monkeypatch.setattr(layer, "__call__", spy)

    def run():
        model = builder("flax.nnx", name)(num_classes=3, drop_path=0.5, rngs=nnx.Rngs(0))
        model.train()
        return model(jnp.ones((2, 32, 32, 3)))

    nnx.eval_shape(run)
    return calls


RUNS = {"torch": calls_of_torch, "keras": calls_of_keras, "linen": calls_of_linen, "nnx": calls_of_nnx}


# JAX compiles a function for the random numbers of each shape.
KERAS = [pytest.mark.keras, pytest.mark.slow_on("jax")]


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(
    "run", [pytest.param(run, id=name, marks=KERAS * (name == "keras")) for name, run in RUNS.items()]
)
def test_the_gate_comes_before_stochastic_depth(run, name, monkeypatch):
    calls = run(name, monkeypatch)
    assert "drop_path" in calls
    for number, call in enumerate(calls):
        if call == "drop_path":
            assert calls[number - 1] == "eca", calls
    # The first block is never skipped, so it has a gate alone.
    assert calls[:2] == ["eca", "eca"], calls
