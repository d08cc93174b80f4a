"""The arguments of the Keras layer and the config that keeps them."""

import inspect
import json
from decimal import Decimal
from fractions import Fraction

import keras
import pytest
from keras import ops

from eca_multi import eca_kernel_size
from eca_multi.keras import ECA
from tests.support.layers_keras import numpy, through_json

pytestmark = pytest.mark.keras


@keras.saving.register_keras_serializable(package="test_keras_layers")
def shifted_tanh(logits):
    return ops.tanh(logits) + 1


# Each argument of the constructor with another value than its default; two rows, for some exclude each other.
FULL = {
    "kernel_size": 5,
    "gamma": 3,
    "beta": 0.5,
    "padding": "circular",
    "gate": keras.activations.relu,
    "shared": False,
    "data_format": "channels_first",
    "pool_axes": (2, -1),
    "causal_axis": -1,
    "kernel_initializer": keras.initializers.RandomNormal(stddev=0.25, seed=3),
    "kernel_regularizer": keras.regularizers.L1L2(l1=0.25, l2=0.5),
    "kernel_constraint": keras.constraints.MaxNorm(max_value=1.5),
    "name": "attention",
    "dtype": "mixed_bfloat16",
    "trainable": False,
}

CONFIGS = [
    pytest.param(FULL, id="full"),
    pytest.param({"init": "identity", "gate": "2sigmoid"}, id="identity"),
    pytest.param({"gate": shifted_tanh}, id="own gate"),
    pytest.param({}, id="defaults"),
]


def comparable(value):
    """Initializers and their like have no equality; what they are built from has."""
    return (type(value), value.get_config()) if hasattr(value, "get_config") else value


def test_the_table_names_every_argument():
    parameters = set(inspect.signature(ECA).parameters) - {"kwargs"}
    assert parameters <= FULL.keys() | {"init"}
    assert parameters <= ECA().get_config().keys()


@pytest.mark.parametrize("options", CONFIGS)
def test_every_argument_survives_the_config(options):
    layer = ECA(**options)
    config = layer.get_config()
    before = through_json(config)
    twin = ECA.from_config(config)
    revived = keras.saving.deserialize_keras_object(through_json(keras.saving.serialize_keras_object(layer)))
    assert through_json(config) == before  # from_config leaves its argument alone
    for other in (twin, revived):
        assert through_json(other.get_config()) == before
        for name in set(inspect.signature(ECA).parameters) - {"kwargs"}:
            assert comparable(getattr(other, name)) == comparable(getattr(layer, name)), name
        assert (other.name, other.dtype_policy.name, other.trainable) == (
            layer.name,
            layer.dtype_policy.name,
            layer.trainable,
        )


def test_it_is_registered():
    assert keras.saving.get_registered_name(ECA) == "eca_multi>ECA"
    assert keras.saving.get_registered_object("eca_multi>ECA") is ECA


@pytest.fixture
def channels_first():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format(before)


def test_data_format_defaults_to_keras_setting(channels_first):
    layer = ECA()
    assert (layer.data_format, layer.channel_axis) == ("channels_first", 1)
    assert ECA(data_format="channels_last").channel_axis == -1
    keras.config.set_image_data_format("channels_last")
    assert ECA().channel_axis == -1
    assert layer.channel_axis == 1  # fixed at construction, and in its config
    assert ECA.from_config(layer.get_config()).channel_axis == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"data_format": "channels"},
            "data_format must be 'channels_first' or 'channels_last'",
        ),
        (
            {"init": "identity", "gate": "2sigmoid", "kernel_initializer": "ones"},
            "kernel_initializer must be None when init='identity'. Received: kernel_initializer='ones'",
        ),
    ],
    ids=["data_format", "two initialisers"],
)
def test_arguments_that_only_keras_has_are_checked(options, match):
    with pytest.raises(ValueError, match=match):
        ECA(**options)


def test_kernel_initializer_replaces_init():
    layer = ECA(5, kernel_initializer="ones")
    layer.build((None, 9, 12))
    assert (numpy(layer.kernel) == 1).all()


def test_a_config_loses_no_digit_of_a_constant():
    layer = ECA(gamma=Fraction(5, 3), beta=Decimal(0), kernel_size=None)
    config = json.loads(json.dumps(layer.get_config()))
    for each in (layer, ECA.from_config(config)):
        each.build((None, 5, 1024))
        assert each.kernel.shape[0] == eca_kernel_size(1024, gamma=Fraction(5, 3), beta=0) == 7


def test_a_short_config_takes_the_defaults():
    assert ECA.from_config({"kernel_size": 3}).gate == "sigmoid"
