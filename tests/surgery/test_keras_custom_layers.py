"""Layers of classes of one's own with layers inside that the graph does not show: names, states, sites."""

import keras
import numpy as np
import pytest
from keras import layers as L

from eca_multi.keras import eca_parameters, insert_eca, plan_eca, remove_eca
from eca_multi.keras.surgery._wrap import clone
from eca_multi.keras.surgery.verify import run
from eca_multi.surgery.at_start import UNUSED
from tests.support.surgery_keras_nets import data, head, randomised

pytestmark = pytest.mark.keras
X = (2, 8, 8, 3)


class Pyramid(L.Layer):
    """Makes Sequentials without names in build, as keras-hub's SpatialPyramidPooling does, and a weight without one."""

    def build(self, shape):
        self.ways = [keras.Sequential([L.Conv2D(4, n, padding="same"), L.BatchNormalization()]) for n in (1, 3)]
        for way in self.ways:
            way.build(shape)
        self.scale = self.add_weight(shape=(4,), initializer="ones")

    def call(self, x):
        return (self.ways[0](x) + self.ways[1](x)) * self.scale


class Late(L.Layer):
    """Makes layers without names in __init__; Keras builds them in the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.norm = L.Conv2D(4, 3, padding="same"), L.BatchNormalization()

    def call(self, x):
        return self.norm(self.conv(x))


def network():
    inputs = keras.Input((8, 8, 3))
    x = Pyramid(name="pyramid")(L.Conv2D(4, 1, name="stem")(inputs))
    x = L.Add(name="add")([x, Late(name="late")(x)])
    return randomised(keras.Model(inputs, head(L.TimeDistributed(L.Dense(4), name="each")(x))))


def paths(model, without=("eca",)):
    return [v.path for v in model.weights if not any(word in v.path for word in without)]


def test_names_inside_layers_stay():
    model = network()
    new = insert_eca(model)
    assert "sequential" in "".join(paths(model))  # a name that Keras counts
    assert paths(new) == paths(model)
    assert [v.name for v in new.weights if "eca" not in v.path] == [v.name for v in model.weights]
    assert [w.name for w in new.get_layer("pyramid").ways] == [w.name for w in model.get_layer("pyramid").ways]
    assert paths(remove_eca(new)) == paths(model)
    if keras.backend.backend() == "torch":
        assert set(model.state_dict()) <= set(new.state_dict())


def test_names_inside_layers_would_differ_without_their_copy(monkeypatch):
    monkeypatch.setattr(clone, "copy_names", lambda old, new: None)
    model = network()
    assert len(set(paths(model)) - set(paths(insert_eca(model)))) == 13 + 6 + 2  # all of Pyramid, Late, TimeDistributed


def test_the_optimizer_keeps_the_state_of_layers_inside():
    model = network()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", run_eagerly=keras.backend.backend() != "jax")
    model.train_on_batch(data(X), np.ones((2, 5), "float32"))
    new = insert_eca(model)
    old = {v.path: keras.ops.convert_to_numpy(v) for v in model.optimizer.variables}
    state = {v.path: keras.ops.convert_to_numpy(v) for v in new.optimizer.variables}
    assert any("sequential" in path and value.any() for path, value in old.items())
    assert all(np.array_equal(state[path], value) for path, value in old.items())


def test_a_place_that_no_output_needs_is_noted():
    """A backbone with two outputs, of which the model uses one: DeepLabV3 on a ResNet."""

    def block(x, name):
        return L.Add(name=f"{name}_add")([x, L.Conv2D(4, 3, padding="same", name=f"{name}_conv")(x)])

    inputs = keras.Input((8, 8, 3))
    first = block(L.Conv2D(4, 1, name="stem")(inputs), "first")
    trunk = keras.Model(inputs, {"low": first, "high": block(first, "second")}, name="trunk")
    model = randomised(keras.Model(inputs, head(trunk(inputs)["low"])))
    notes = {entry.path: entry.notes for entry in plan_eca(model).entries}
    assert notes == {"trunk/first_conv": (), "trunk/second_conv": (UNUSED,)}
    assert not any(entry.notes for entry in plan_eca(trunk).entries)
    new, before = insert_eca(model), run(model, data(X))[0]
    for kernel, same in zip(eca_parameters(new), (False, True), strict=True):
        kernel.assign(np.full(kernel.shape, 0.5, "float32"))
        assert np.array_equal(run(new, data(X))[0], before) is same
        kernel.assign(np.zeros(kernel.shape, "float32"))
