"""The count of residual adds in what JAX and TensorFlow trace."""

import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import linen as nn

from benchmarks.zoo.flax_flow import adds_of
from benchmarks.zoo.flax_run import Call, random_variables
from eca_multi.flax.linen import insert_eca

CALL = Call({"x": jnp.ones((2, 9, 7, 3))})


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(x + nn.GroupNorm(2, name="norm")(nn.Conv(8, (3, 3))(x)))


class Network(nn.Module):
    lifted: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))(x)
        x = (nn.remat(Block) if self.lifted else Block)(name="first")(x)
        return Block(name="second")(x) + nn.Dense(8)(x)


@pytest.mark.parametrize("lifted", [False, True])
def test_adds_of_a_linen_network_are_counted_and_named(lifted):
    """The last add counts too: one of its sides went through the second block's convolution."""
    net = Network(lifted)
    adds = adds_of(net, random_variables(net, CALL), CALL)
    assert [add.place for add in adds] == ["first", "second", ""]


@pytest.mark.slow
def test_gates_of_a_linen_network_reach_their_adds():
    net = Network()
    module, variables = insert_eca(net, random_variables(net, CALL), ["first/norm"], example_inputs=CALL.inputs)
    assert [len(add.ecas) for add in adds_of(module, variables, CALL)] == [1, 0, 0]


@pytest.mark.slow
@pytest.mark.keras
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the count reads TensorFlow's graph")
def test_adds_of_a_keras_network_are_counted_with_their_gates():
    from benchmarks.zoo import keras_flow
    from eca_multi.keras import insert_eca

    def block(x, name):
        branch = keras.layers.Conv2D(8, 3, padding="same", name=f"{name}_conv")(x)
        return keras.layers.Add(name=f"{name}_add")([x, keras.layers.BatchNormalization(name=f"{name}_bn")(branch)])

    inputs = keras.Input((9, 7, 3))
    x = keras.layers.Conv2D(8, 3, padding="same")(inputs)
    model = keras.Model(inputs, block(block(x, "first"), "second"))
    array = np.ones((2, 9, 7, 3), "float32")
    assert [bool(add.ecas) for add in keras_flow.adds_of(model, array)] == [False, False]
    gated = insert_eca(model, ["second_bn"])
    assert [bool(add.ecas) for add in keras_flow.adds_of(gated, array)] == [False, True]
