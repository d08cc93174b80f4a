"""A network of a class of its own keeps the class: attributes, methods, config, files; or it is refused."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as L

from eca_multi.keras import eca_parameters, insert_eca, installed_eca, plan_eca, remove_eca
from eca_multi.keras.surgery.verify import run
from eca_multi.surgery.errors import UnsupportedModelError
from tests.support.surgery_keras_classes import (
    Backbone,
    Classifier,
    Forgetful,
    Stack,
    WithoutConfig,
    block,
    classifier,
)
from tests.support.surgery_keras_nets import data, names, randomised

pytestmark = pytest.mark.keras
X = (2, 8, 8, 3)


def off_identity(model):
    for kernel in eca_parameters(model):
        kernel.assign(np.full(kernel.shape, 0.3, "float32"))
    return model


def test_class_attributes_and_methods_are_kept():
    old = classifier()
    new = insert_eca(old, example_inputs=data(X))
    assert type(new) is Classifier  # its config tells the backbone, and that tells the ECAs
    assert isinstance(new.backbone, Backbone)
    assert type(new.backbone).__name__ == "Backbone"
    assert new.backbone is new.get_layer("trunk")
    assert new.backbone is not old.backbone
    assert new.backbone.stages[0] is new.backbone.get_layer("stem")
    assert new.preprocessor is not old.preprocessor
    np.testing.assert_array_equal(new.preprocess(data(X)), old.preprocess(data(X)))
    level = keras.Model(new.backbone.input, new.backbone.levels["P0"])  # a tensor of the new graph
    assert level.get_layer("stem") is new.backbone.get_layer("stem")
    assert len(installed_eca(level).entries) == 1
    assert len(installed_eca(new).entries) == 2
    assert [v.path for v in new.steps.variables] == [v.path for v in old.steps.variables]
    assert new.steps is not old.steps


def test_remove_gives_the_class_back():
    old = classifier()
    back = remove_eca(insert_eca(old))
    assert type(back) is Classifier
    assert type(back.backbone) is Backbone
    assert names(back.backbone) == names(old.backbone)
    assert [v.path for v in back.weights] == [v.path for v in old.weights]
    np.testing.assert_array_equal(run(back, data(X))[0], run(old, data(X))[0])


class Ordered(keras.Model):
    """Keeps its layers as attributes before Keras's __init__ runs, some of them in a list."""

    def __init__(self):
        self.stem = L.Conv2D(4, 3, padding="same", name="stem")
        self.blocks = [L.Conv2D(4, 3, padding="same", name=name) for name in ("late", "early")]
        self.norm = L.BatchNormalization(name="norm")
        inputs = keras.Input(X[1:])
        x = self.stem(inputs)
        for layer in reversed(self.blocks):
            x = L.Add()([x, self.norm(layer(x))]) if layer.name == "early" else layer(x)
        super().__init__(inputs, x)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch takes no layer as attribute before its __init__")
def test_the_order_of_weights_stays():
    """Optimizers and `get_weights` count weights by their order, and Keras orders them by when a model got a layer."""
    old = Ordered()
    order = [v.path for v in old.weights]
    new = insert_eca(old, verify=False)
    assert [v.path for v in new.weights if "_eca" not in v.path] == order
    assert [v.path for v in remove_eca(new).weights] == order
    assert order != [v.path for layer in old.layers for v in layer.weights]  # the control: the graph has another


class Task(keras.Model):
    """Runs a part of an encoder's graph, and keeps the whole encoder as an attribute, as tasks of keras-hub do."""

    def __init__(self):
        inputs = keras.Input(X[1:], name="pixels")
        x = L.Conv2D(4, 3, padding="same", name="stem")(inputs)
        middle = L.Add(name="add")([x, L.Conv2D(4, 3, padding="same", name="branch")(x)])
        encoder = keras.Model(inputs, L.Conv2D(2, 3, name="top")(middle), name="encoder")
        part = keras.Model(encoder.input, middle, name="part")
        own = keras.Input(X[1:], name="own")
        super().__init__(own, L.Conv2D(3, 1, name="head")(part(own)))
        self.encoder = encoder


def test_an_attribute_shares_its_layers_with_the_graph():
    old = Task()
    new = insert_eca(old, verify=False)
    assert new.encoder is not old.encoder
    assert new.encoder.get_layer("branch") is new.get_layer("part").get_layer("branch")
    assert installed_eca(new.encoder).paths == ("branch",), "a gate is in the graph that both have"
    kept = sorted(v.path for v in new.weights if "_eca" not in v.path)
    assert kept == sorted(v.path for v in old.weights), "none of the encoder's weights is there twice"
    off_identity(new)
    x = data(X)
    features = keras.Model(old.encoder.input, old.encoder.get_layer("add").output)
    assert np.abs(run(new.get_layer("part"), x)[0] - run(features, x)[0]).max() > 1e-3  # the control
    for name in ("stem", "branch", "top"):
        np.testing.assert_array_equal(new.encoder.get_layer(name).kernel, old.encoder.get_layer(name).kernel)
    back = remove_eca(new)
    assert [v.path for v in back.weights] == [v.path for v in old.weights]
    np.testing.assert_array_equal(run(back.encoder, x)[0], run(old.encoder, x)[0])


class Holder(keras.Model):
    """Holds a layer that only the network around it calls, as SAM's backbone holds the mask decoder."""

    def __init__(self, decoder, **kwargs):
        inputs = keras.Input(X[1:])
        super().__init__(
            inputs, L.Add(name="add")([inputs, L.Conv2D(3, 3, padding="same", name="branch")(inputs)]), **kwargs
        )
        self.decoder = decoder


def test_a_layer_in_an_attribute_is_the_one_that_the_network_calls():
    holder, inputs = Holder(L.Conv2D(2, 1, name="decoder"), name="holder"), keras.Input(X[1:])
    old = keras.Model(inputs, holder.decoder(holder(inputs)))
    new = insert_eca(old, verify=False)
    assert new.get_layer("holder").decoder is new.get_layer("decoder")
    assert sorted(v.path for v in new.weights if "_eca" not in v.path) == sorted(v.path for v in old.weights)
    assert [v.path for v in remove_eca(new).weights] == [v.path for v in old.weights]


@pytest.mark.parametrize("make", [classifier, lambda: randomised(Backbone()), lambda: randomised(Stack())])
def test_configs_and_files_bring_the_ecas_back(make, tmp_path):
    old, x = make(), data(X)
    where = "conv" if isinstance(old, Stack) else "residual"
    new = off_identity(insert_eca(old, where))
    assert isinstance(new, type(old))
    again = type(new).from_config(new.get_config())
    assert type(again) is type(new)
    again.set_weights(new.get_weights())
    np.testing.assert_array_equal(run(again, x)[0], run(new, x)[0])
    assert not np.array_equal(run(new, x)[0], run(old, x)[0])
    new.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    assert type(loaded) is type(new)
    assert len(installed_eca(loaded).entries) == len(installed_eca(new).entries)
    np.testing.assert_array_equal(run(loaded, x)[0], run(new, x)[0])
    assert type(remove_eca(loaded)) is type(old)
    clone = keras.models.clone_model(new)
    assert len(installed_eca(clone).entries) == len(installed_eca(new).entries)


@pytest.mark.slow
def test_a_fresh_process_loads_the_class(tmp_path):
    new, x = off_identity(insert_eca(classifier())), data(X)
    new.save(tmp_path / "net.keras")
    np.savez(tmp_path / "xy.npz", x=x, y=run(new, x)[0])
    code = (
        "import keras, numpy as np, eca_multi.keras, tests.support.surgery_keras_classes as classes\n"
        f"xy = np.load({str(tmp_path / 'xy.npz')!r})\n"
        f"model = keras.saving.load_model({str(tmp_path / 'net.keras')!r})\n"
        "assert type(model) is classes.Classifier\n"
        "assert isinstance(model.backbone, classes.Backbone)\n"
        "assert np.array_equal(keras.ops.convert_to_numpy(model(xy['x'], training=False)), xy['y'])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.slow_on("jax")
def test_fit_trains_as_the_class_does():
    """With rate=0 the class's loss is 0: a plain model would move."""
    x, y = data(X), np.ones((2, 2), "float32")
    new = insert_eca(classifier(rate=0.0))
    plain = insert_eca(classifier(rate=0.0), keep_class=False)
    moved = {}
    for model in (new, plain):
        eager = keras.backend.backend() != "jax"
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False, run_eagerly=eager)
        before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]
        model.fit(x, y, verbose=0)
        after = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
        moved[type(model).__name__] = not all(map(np.array_equal, before, after))
    assert moved == {"Classifier": False, "Functional": True}


def test_a_plain_model_is_given_only_where_it_is_asked_for():
    old = classifier()
    assert not any("plain" in note for note in plan_eca(old).notes)
    plain = insert_eca(old, keep_class=False)
    assert type(plain).__name__ == "Functional"
    assert type(plain.get_layer("trunk")).__name__ == "Functional"
    np.testing.assert_array_equal(run(plain, data(X))[0], run(old, data(X))[0])


def test_a_class_whose_config_makes_another_network_is_refused():
    model = Forgetful(blocks=3)
    with pytest.raises(
        UnsupportedModelError, match=r"'backbone' \(Forgetful\), whose config makes another: .*keep_class=False"
    ):
        insert_eca(model)
    assert len(installed_eca(insert_eca(model, keep_class=False)).entries) == 3
    assert len(installed_eca(insert_eca(Forgetful(blocks=2))).entries) == 2  # which the config happens to tell


def test_a_class_that_no_file_brings_back_lives_with_eca_too(tmp_path):
    old = randomised(WithoutConfig(lambda x: block(L.Conv2D(4, 1)(x), 4)))
    new = insert_eca(old, example_inputs=data(X))
    assert isinstance(new, WithoutConfig)
    assert new.make is old.make
    for model in (old, new):
        model.save(tmp_path / "net.keras")
        with pytest.raises(TypeError, match=r"WithoutConfig.__init__\(\) got an unexpected keyword argument"):
            keras.saving.load_model(tmp_path / "net.keras", custom_objects={"WithoutConfig": WithoutConfig})


def test_attributes_of_any_kind_are_copied_or_refused():
    old = Backbone()
    old.tags = {"size": (8, 8), "nested": [{"stem": old.get_layer("stem")}]}
    old.teacher = classifier()
    old.noise = keras.random.SeedGenerator(3)
    old.callback = old.get_config
    new = insert_eca(old)
    assert new.tags["nested"][0]["stem"] is new.get_layer("stem")
    assert new.tags["size"] == (8, 8)
    assert type(new.teacher) is Classifier
    assert new.teacher is not old.teacher
    np.testing.assert_array_equal(run(new.teacher, data(X))[0], run(old.teacher, data(X))[0])
    assert new.callback.__self__ is new
    old.tensor = keras.Input((3,))
    with pytest.raises(UnsupportedModelError, match=r"Received: 'tensor', which is a symbolic tensor of another graph"):
        insert_eca(old)
    assert insert_eca(old, keep_class=False).name == "backbone"
