"""Every option of a layer can be read back from the layer under the option's own name, in every framework."""

import inspect
from fractions import Fraction
from types import SimpleNamespace

import keras
import pytest
import torch
from flax import nnx

SHARED = {
    "kernel_size": 5,
    "gamma": Fraction(3, 2),
    "beta": 0.5,
    "padding": "circular",
    "gate": "2sigmoid",
    "shared": False,
    "init": "identity",
    "channel_axis": 1,
    "pool_axes": (2, -1),
    "causal_axis": 2,
}
MESH_AXES = {"axis_name": ("space", "time"), "channel_axis_name": "model"}
JAX = {"dtype": "float16", "param_dtype": "bfloat16", **MESH_AXES}
OF_KERAS = {
    "kernel_initializer": keras.initializers.Ones(),
    "kernel_regularizer": keras.regularizers.L2(0.1),
    "kernel_constraint": keras.constraints.NonNeg(),
}
# What a framework has beside the shared options; None takes one away. No value here or above is a default but one.
OWN = {
    "torch": [{"channels": 6, "device": torch.device("meta"), "dtype": torch.float64}],
    "keras": [
        {"channel_axis": None, "data_format": "channels_first"},
        {"channel_axis": None, "init": "uniform", **OF_KERAS},  # an initializer and "identity" exclude each other
    ],
    "linen": [{"init": None, "kernel_init": "identity", **JAX}],
    "nnx": [{"channels": 6, **JAX, "rngs": nnx.Rngs(0)}],
}
UNREAD = {"self", "rngs", "kwargs", "parent", "name"}  # a stream of keys, and what every Keras or linen layer has


def options_of(kind):
    """The sets of options that together give each option once."""
    merged = [{**SHARED, **own} for own in OWN[kind]]
    return [{name: value for name, value in options.items() if value is not None} for options in merged]


def unlike(layer, options):
    """The options that the layer does not have, or has another value of."""
    missing = object()
    return {name for name, value in options.items() if getattr(layer, name, missing) != value} - UNREAD


@pytest.mark.only("torch", "keras", "linen", "nnx")
def test_every_option_is_read_back(framework):
    layer_type = framework.package.ECA
    for options in options_of(framework.kind):
        assert unlike(layer_type(**options), options) == set()
    names = set(inspect.signature(layer_type.__init__).parameters)
    assert names - UNREAD == set().union(*options_of(framework.kind)) - UNREAD


def test_a_lazy_layer_knows_its_options_before_and_after_its_first_input():
    from eca_multi.torch import LazyECA

    (options,) = options_of("torch")
    options = {**options, "device": torch.device("cpu")}
    channels = options.pop("channels")
    layer = LazyECA(**options)
    assert unlike(layer, options) == set()
    layer(torch.ones(2, channels, 5, 5))
    assert unlike(layer, {**options, "channels": channels}) == set()


def test_an_option_that_is_lost_or_changed_is_seen():
    whole = SimpleNamespace(**SHARED)
    assert unlike(whole, SHARED) == set()
    whole.gate = "sigmoid"
    del whole.shared
    assert unlike(whole, SHARED) == {"gate", "shared"}
