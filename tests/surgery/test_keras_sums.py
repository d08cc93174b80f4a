"""Sums of three terms and averages in Keras networks; layers and metrics with functions or states of the user's own."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from eca_multi.keras import insert_eca, installed_eca, plan_eca, remove_eca
from eca_multi.surgery.errors import NoSiteError
from tests.support.surgery_keras_nets import data, randomised

pytestmark = pytest.mark.keras
X = (2, 8, 8, 4)


def conv(x, name, **options):
    return L.Conv2D(4, 3, padding="same", name=name, **options)(x)


def net(make):
    inputs = keras.Input(X[1:], name="image")
    return randomised(keras.Model(inputs, make(inputs), name="net"))


def outputs(model):
    return ops.convert_to_numpy(model(data(X), training=False))


SUMS = {
    "one layer": (lambda x: L.Add()([x, conv(x, "a"), conv(x, "b")]), ("a", "b")),
    "a chain": (lambda x: x + conv(x, "a") + conv(x, "b"), ("a", "b")),
    "of unequal depth": (lambda x: x + conv(conv(x, "a"), "b") + conv(x, "c"), ("b", "c")),
    "an average": (lambda x: L.Average()([x, conv(x, "a")]), ("a",)),
}


@pytest.mark.parametrize("kind", SUMS)
def test_each_branch_beside_the_shortcut_is_a_site(kind):
    make, paths = SUMS[kind]
    model = net(make)
    plan = plan_eca(model)
    assert sorted(plan.paths) == sorted(paths)
    assert not plan.skipped_adds
    new = insert_eca(model)
    assert np.array_equal(outputs(new), outputs(model))
    assert installed_eca(new) == plan


def test_branches_without_a_shortcut_are_no_sites():
    with pytest.raises(NoSiteError, match="parallel branches"):
        plan_eca(net(lambda x: L.Add()([conv(x, "a"), conv(x, "b")])))


def test_functions_of_the_user_in_layers_are_kept():
    factor = 3.0

    def mine(x):
        return ops.tanh(x) * factor

    def make(x):
        x = L.Activation(lambda t: ops.relu(t) * factor)(x)
        return L.Add()([x, conv(x, "branch", activation=mine)])

    model = net(make)
    new = insert_eca(model)
    assert new.get_layer("branch").activation is mine
    assert np.array_equal(outputs(new), outputs(model))
    assert np.array_equal(outputs(remove_eca(new)), outputs(model))


class Total(keras.metrics.Metric):
    def __init__(self, name="total", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "zeros", name="total")

    def update_state(self, y, p, sample_weight=None):
        self.total.assign_add(1)

    def result(self):
        return self.total


@pytest.mark.slow_on("jax")
def test_a_metric_that_its_config_tells_starts_anew():
    model, y = net(lambda x: L.Add()([x, conv(x, "branch")])), np.ones(X, "float32")
    model.compile("sgd", "mse", metrics=[Total()], jit_compile=False)
    expected = model.evaluate(data(X), y, verbose=0, return_dict=True)
    assert insert_eca(model).evaluate(data(X), y, verbose=0, return_dict=True)["total"] == expected["total"] == 1
