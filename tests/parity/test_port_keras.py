"""`assert_ported` with Keras layers and models, on the backend of the process."""

import re

import keras
import numpy as np
import pytest
from keras import layers

from eca_multi.parity import ParityError, SpecError, assert_ported
from tests.support.ports import INPUTS, reference

pytestmark = pytest.mark.keras
MAP = {
    "conv1/kernel": "conv1.weight: o i h w -> h w i o",
    "conv2/kernel": "conv2.weight: o i h w -> h w i o",
    "{layer}/bias": "{layer}.bias",
    "bn1/gamma": "bn1.weight",
    "bn1/beta": "bn1.bias",
    "bn1/moving_mean": "bn1.running_mean",
    "bn1/moving_variance": "bn1.running_var",
    "fc/kernel": "fc.weight: o i -> i o",
}


def keras_port(epsilon: float = 1e-5) -> keras.Model:
    entered = keras.Input((8, 9, 3))
    options = {"padding": "same", "data_format": "channels_last"}
    x = layers.Conv2D(8, 3, name="conv1", **options)(entered)
    x = layers.ReLU()(layers.BatchNormalization(epsilon=epsilon, axis=-1, name="bn1")(x))
    x = layers.Add()([x, layers.ReLU()(layers.Conv2D(8, 3, name="conv2", **options)(x))])
    pooled = layers.GlobalAveragePooling2D(data_format="channels_last")(x)
    model = keras.Model(entered, {"logits": layers.Dense(5, name="fc")(pooled), "features": x})
    held = {name: tensor.numpy() for name, tensor in reference().state_dict().items()}
    for name in ("conv1", "conv2", "fc"):
        way = (1, 0) if name == "fc" else (2, 3, 1, 0)
        model.get_layer(name).set_weights([held[f"{name}.weight"].transpose(way), held[f"{name}.bias"]])
    norm = [held[f"bn1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
    model.get_layer("bn1").set_weights(norm)
    return model


def test_a_keras_port_of_a_torch_network_agrees():
    report = assert_ported(reference(), keras_port(), INPUTS, map=MAP)
    assert {"logits", "features", "dx", "dconv2.weight", "dbn1.weight"} <= {cell.tensor for cell in report.compared}


def test_a_wrong_epsilon_is_found_at_its_layer():
    with pytest.raises(ParityError, match=r"eps is 0.001") as caught:
        assert_ported(reference(), keras_port(1e-3), INPUTS)
    assert re.search(r"first divergence: bn1 \(BatchNorm2d; in the port bn1, BatchNormalization\)", str(caught.value))


def test_the_model_is_as_it_was_after_a_failure():
    model = keras_port(1e-3)
    before = model.get_weights()
    with pytest.raises(ParityError, match="first divergence"):
        assert_ported(reference(), model, INPUTS)
    assert all((one == other).all() for one, other in zip(before, model.get_weights(), strict=True))
    assert all("call" not in vars(layer) for layer in model.layers)


def test_a_layer_without_weights_is_refused():
    with pytest.raises(SpecError, match=r"must be built. Received: one without weights"):
        assert_ported(reference(), layers.Dense(3), INPUTS)


BACK = {
    "conv1.weight": "conv1/kernel: h w i o -> o i h w",
    "conv2.weight": "conv2/kernel: h w i o -> o i h w",
    "bn1.weight": "bn1/gamma",
    "bn1.running_mean": "bn1/moving_mean",
    "bn1.running_var": "bn1/moving_variance",
    "bn1.num_batches_tracked": None,
    "fc.weight": "fc/kernel: i o -> o i",
    **{f"{layer}.bias": f"{layer}/{'beta' if layer == 'bn1' else 'bias'}" for layer in ("conv1", "bn1", "conv2", "fc")},
}
LAST = INPUTS.transpose(0, 2, 3, 1)


def test_a_torch_port_of_a_keras_network_agrees():
    report = assert_ported(keras_port(), reference(), LAST, map=BACK)
    assert {"logits", "features", "dx", "dconv2/kernel", "dbn1/gamma"} <= {cell.tensor for cell in report.compared}


def test_a_fault_of_a_torch_port_is_found_at_its_layer():
    port = reference()
    port.bn1.eps = 1e-3
    with pytest.raises(
        ParityError, match=r"first divergence: bn1 \(BatchNormalization; in the port bn1, BatchNorm2d\)"
    ):
        assert_ported(keras_port(), port, LAST)


def test_several_inputs_come_in_the_structure_of_the_model():
    one, two = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model({"a": one, "b": two}, layers.Add()([one, layers.Rescaling(2.0)(two)]))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)

    def plain(p, a, b):
        return a + p["two"] * b

    assert_ported((plain, {"two": np.float32([2.0])}), model, {"a": x, "b": x[::-1].copy()}, gradients=False)


class Composed(layers.Layer):
    """It makes its sub-layers itself, without names: a copy of it has sub-layers of other names."""

    def __init__(self, epsilon=1e-3, **options):
        super().__init__(**options)
        self.first, self.norm, self.last = layers.Dense(6), layers.LayerNormalization(epsilon=epsilon), layers.Dense(2)

    def build(self, shape):
        self.first.build(shape)
        self.norm.build((*shape[:-1], 6))
        self.last.build((*shape[:-1], 6))

    def call(self, x):
        return self.last(keras.ops.relu(self.norm(self.first(x))))


def composed(epsilon=1e-3, weights=None):
    layer = Composed(epsilon)
    layer.build((None, 4))
    if weights is not None:
        layer.set_weights(weights)
    return layer


def test_sub_layers_without_names_are_those_of_the_layer_that_was_given():
    ours = composed()
    theirs = composed(weights=ours.get_weights())
    own = [path.removeprefix(f"{ours.name}/") for path in (variable.path for variable in ours.variables)]
    others = [path.removeprefix(f"{theirs.name}/") for path in (variable.path for variable in theirs.variables)]
    assert own != others
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    entries = dict(zip(others, own, strict=True))
    report = assert_ported(ours, theirs, x, map=entries)
    assert {f"d{path}" for path in own} <= {cell.tensor for cell in report.compared}
    with pytest.raises(ParityError, match=rf"first divergence: {ours.norm.name} \(LayerNormalization"):
        assert_ported(ours, composed(0.3, ours.get_weights()), x)
