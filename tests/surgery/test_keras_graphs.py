"""ECA into Keras graphs of all forms: nested, shared, Sequential, other layouts and dtypes, layers of one's own."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as L

from eca_multi.keras import (
    ECA,
    base_state,
    eca_parameters,
    insert_eca,
    installed_eca,
    load_base_state,
    plan_eca,
    remove_eca,
)
from eca_multi.keras.surgery.verify import run
from eca_multi.surgery.errors import NoSiteError
from tests.support.surgery_keras_nets import conv_bn, data, head, randomised, resnet

pytestmark = pytest.mark.keras


def backbone(name="backbone"):
    inputs = keras.Input((8, 8, 3), name="pixels")
    x = conv_bn(inputs, 4, 3, "a", activation=False)
    y = conv_bn(x, 4, 3, "b", activation=False)
    return keras.Model(inputs, L.Add(name="add")([x, y]), name=name)


def nested():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, head(backbone()(inputs, training=False)))


def shared_model():
    one, two = keras.Input((8, 8, 3), name="one"), keras.Input((8, 8, 3), name="two")
    inner = backbone()
    return keras.Model([one, two], head(L.Add(name="both")([inner(one), inner(two)])))


def shared_layer():
    inputs = keras.Input((8, 8, 4))
    conv, norm = L.Conv2D(4, 3, padding="same", name="conv"), L.BatchNormalization(name="norm")
    x = inputs
    for n in range(2):
        x = L.Add(name=f"add{n}")([x, norm(conv(x))])
    return keras.Model(inputs, head(x))


def interlocked():
    """A(B(A(B(x)))): no order of layers is one of calls."""
    inputs = keras.Input((8, 8, 4))
    a, b = (L.Conv2D(4, 3, padding="same", name=name) for name in "ab")
    add = L.Add(name="add")
    x = add([inputs, a(b(inputs))])
    return keras.Model(inputs, head(add([x, a(b(x))])))


def sequential_branch():
    inputs = keras.Input((8, 8, 4))
    branch = keras.Sequential(
        [L.Conv2D(4, 3, padding="same", name="conv"), L.BatchNormalization(name="norm")], name="branch"
    )
    return keras.Model(inputs, head(L.Add(name="add")([inputs, branch(inputs)])))


def functional_in_sequential():
    return keras.Sequential([keras.Input((8, 8, 3)), backbone(), L.GlobalAveragePooling2D(), L.Dense(5, name="head")])


def operators():
    inputs = keras.Input((8, 8, 4))
    x = inputs
    for n in range(2):
        x = keras.ops.relu(x + L.BatchNormalization(name=f"n{n}")(L.Conv2D(4, 3, padding="same", name=f"c{n}")(x)) * 1)
    return keras.Model(inputs, head(x))


def dictionaries():
    inputs = {"image": keras.Input((8, 8, 4), name="image"), "unused": keras.Input((2,), name="unused")}
    x = L.Add(name="add")([inputs["image"], L.Conv2D(4, 3, padding="same", name="conv")(inputs["image"])])
    return keras.Model(inputs, {"map": x, "logits": [head(x)]})


def dynamic():
    inputs = keras.Input((None, None, 4))
    return keras.Model(inputs, head(L.Add(name="add")([inputs, L.Conv2D(4, 3, padding="same", name="conv")(inputs)])))


def channels_first():
    inputs = keras.Input((4, 8, 8))
    y = L.Conv2D(4, 3, padding="same", data_format="channels_first", name="conv")(inputs)
    y = L.ReLU(name="relu")(L.BatchNormalization(axis=1, name="norm")(y))
    x = L.Add(name="add")([inputs, L.Dropout(0.1)(y)])
    return keras.Model(inputs, L.GlobalAveragePooling2D(data_format="channels_first")(x))


def in_dtype(policy):
    def build():
        inputs = keras.Input((8, 8, 4))
        y = L.Conv2D(4, 3, padding="same", name="conv", dtype=policy)(inputs)
        y = L.BatchNormalization(name="norm", dtype=policy)(y)
        x = L.Add(name="add", dtype=policy)([L.Activation("linear", dtype=policy, name="cast")(inputs), y])
        return keras.Model(inputs, L.GlobalAveragePooling2D(dtype=policy)(x))

    return build


FOUR = (2, 8, 8, 4)
THREE = (2, 8, 8, 3)
GRAPHS = {
    "nested": (nested, {"backbone/b_bn": 1}, THREE),
    "shared-model": (shared_model, {"backbone/b_bn": 2}, (THREE, THREE)),
    "shared-layer": (shared_layer, {"norm": 2}, FOUR),
    "interlocked": (interlocked, {"a": 2}, FOUR),
    "sequential-branch": (sequential_branch, {"branch": 1}, FOUR),
    "functional-in-sequential": (functional_in_sequential, {"backbone/b_bn": 1}, THREE),
    "operators": (operators, None, FOUR),
    "dictionaries": (dictionaries, {"conv": 1}, {"image": FOUR, "unused": (2, 2)}),
    "dynamic": (dynamic, {"conv": 1}, (2, 7, 9, 4)),
    "channels-first": (channels_first, {"relu": 1}, (2, 4, 8, 8)),
    "mixed-bfloat16": (in_dtype("mixed_bfloat16"), {"norm": 1}, FOUR),
    "bfloat16": (in_dtype("bfloat16"), {"norm": 1}, FOUR),
}


def inputs_of(shape):
    if isinstance(shape, dict):
        return {name: data(one) for name, one in shape.items()}
    return tuple(data(one, n) for n, one in enumerate(shape)) if isinstance(shape[0], tuple) else data(shape)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_of_all_forms(name, tmp_path):
    """Sites and their calls, equal outputs, a reload, the way back."""
    build, sites, shape = GRAPHS[name]
    model, x = randomised(build()), inputs_of(shape)
    plan = plan_eca(model)
    assert sites is None or {entry.path: entry.calls for entry in plan.entries} == sites
    assert plan.entries

    new = insert_eca(model, example_inputs=x)
    before = run(model, x)
    assert all(np.array_equal(a, b) for a, b in zip(run(new, x), before, strict=True))
    assert len(eca_parameters(new)) == len(plan.entries)
    assert installed_eca(new).paths == plan.paths
    assert [entry.calls for entry in installed_eca(new).entries] == [entry.calls for entry in plan.entries]

    for kernel in eca_parameters(new):
        kernel.assign(np.full(kernel.shape, 0.7, "float32"))
    assert any(not np.array_equal(a, b) for a, b in zip(run(new, x), before, strict=True))
    new.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    assert all(np.array_equal(a, b) for a, b in zip(run(again, x), run(new, x), strict=True))

    back = remove_eca(again)
    assert all(np.array_equal(a, b) for a, b in zip(run(back, x), before, strict=True))
    assert [layer.name for layer in back.layers] == [layer.name for layer in model.layers]
    for with_eca, without in ((new, model), (new, remove_eca(new)), (again, back)):  # Keras's reload has its own names
        assert [v.path for v in with_eca.weights if "_eca" not in v.path] == [v.path for v in without.weights]
    load_base_state(new, base_state(model))
    assert all(np.array_equal(a, b) for a, b in zip(run(new, x), before, strict=True))


def test_layout_and_dtype_are_the_sites():
    (layer,) = (layer for layer in insert_eca(channels_first()).layers if isinstance(layer, ECA))
    assert (layer.data_format, layer.channel_axis) == ("channels_first", 1)
    (layer,) = (layer for layer in insert_eca(in_dtype("mixed_bfloat16")()).layers if isinstance(layer, ECA))
    assert (layer.dtype_policy.name, layer.kernel.dtype) == ("mixed_bfloat16", "float32")
    (layer,) = (layer for layer in insert_eca(in_dtype("float16")()).layers if isinstance(layer, ECA))
    assert (layer.compute_dtype, layer.kernel.dtype) == ("float16", "float16")


@pytest.mark.slow_on("jax")
def test_every_convolution_gates_its_filters():
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2DTranspose(6, 3, padding="same", name="transposed")(inputs)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depthwise")(x)
    x = L.SeparableConv2D(5, 3, padding="same", name="separable")(x)
    x = L.Conv2D(8, 3, groups=1, padding="same", name="plain")(x)
    model = randomised(keras.Model(inputs, head(x)))
    plan = plan_eca(model, "conv")
    assert {entry.path: entry.channels for entry in plan.entries} == {
        "transposed": 6,
        "depthwise": 12,
        "separable": 5,
        "plain": 8,
    }
    assert "depthwise" in plan.entries[1].notes[0]
    insert_eca(model, "conv", example_inputs=data(FOUR))


def test_one_eca_for_a_shared_layer_at_two_paths():
    inner = backbone()
    inputs = keras.Input((8, 8, 3))
    again = inner.get_layer("a_conv")(inputs)
    model = randomised(keras.Model(inputs, head(L.Add(name="sum")([inner(inputs), again]))))
    plan = plan_eca(model, "conv")
    aliases = {entry.path: entry.aliases for entry in plan.entries}
    assert aliases == {"a_conv": ("backbone/a_conv",), "backbone/b_conv": ()}
    assert plan.entries[0].calls == 2
    assert plan_eca(model, ["backbone/a_conv"]).paths == ("a_conv",)
    new = insert_eca(model, "conv", example_inputs=data(THREE))
    assert len(eca_parameters(new)) == 2
    assert installed_eca(new).entries[0].calls == 2


def test_nested_sites_can_be_chosen_by_suffix():
    model = nested()
    assert plan_eca(model, "conv", include=["b_conv"]).paths == ("backbone/b_conv",)
    assert plan_eca(model, "conv", exclude="backbone/a.*").paths == ("backbone/b_conv",)
    new = insert_eca(model, ["backbone/a_conv", "backbone"])
    assert [layer.name for layer in new.layers if isinstance(layer, ECA)] == ["backbone_eca"]
    assert new.get_layer("backbone").get_layer("a_conv_eca").kernel.shape == (1, 1, 1)


def test_arguments_of_calls_are_kept():
    """The backbone was called with training=False."""
    for model in (nested(), insert_eca(nested()), remove_eca(insert_eca(nested()))):
        (node,) = model.get_layer("backbone")._inbound_nodes
        assert node.arguments.kwargs["training"] is False


def test_a_frozen_backbone_stays_frozen_and_its_eca_is_trained():
    inputs = keras.Input((8, 8, 3))
    inner = backbone()
    inner.trainable = False
    model = keras.Model(inputs, head(inner(inputs)))
    paths = {v.path for v in insert_eca(model).trainable_variables}
    assert {path.rsplit("/", 2)[-2] for path in paths} == {"b_bn_eca", "head"}
    assert not insert_eca(model).get_layer("backbone").get_layer("a_bn").trainable


def test_an_unbuilt_sequential():
    def build():
        return keras.Sequential([L.Conv2D(6, 3, name="c"), L.BatchNormalization(name="n"), L.ReLU(), L.Flatten()])

    plan = plan_eca(build(), "conv_norm")
    assert [(e.path, e.channels, e.calls) for e in plan.entries] == [("n", 6, None)]
    new = insert_eca(build(), "conv_norm")
    assert [layer.name for layer in new.layers][:3] == ["c", "n", "n_eca"]
    assert not new.built
    assert new(data(THREE)).shape == (2, 216)
    assert new.get_layer("n_eca").kernel_size == plan.entries[0].kernel_size
    built = insert_eca(build(), "conv_norm", example_inputs=data(THREE))
    assert built.input_shape == (None, 8, 8, 3)
    assert [layer.name for layer in remove_eca(new).layers][:2] == ["c", "n"]


def test_a_sequential_that_was_built_by_a_call():
    model = keras.Sequential([L.Conv2D(6, 3, name="c"), L.ReLU()])
    x = data(THREE)
    y = run(model, x)[0]
    np.testing.assert_array_equal(run(insert_eca(model, "conv", example_inputs=x), x)[0], y)


class Trains(keras.Model):
    """Keeps its class: Keras makes it from inputs and outputs."""

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


def test_classes_of_ones_own():
    inputs = keras.Input((8, 8, 3))
    model = Trains(inputs, L.Conv2D(4, 3, name="conv")(inputs))
    assert type(insert_eca(model, "conv")) is Trains


class Composite(L.Layer):
    """Two convolutions that the graph does not show."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.one = L.Conv2D(filters, 3, padding="same", name="one")
        self.two = L.Conv2D(filters, 3, padding="same", name="two")

    def build(self, shape):
        self.one.build(shape)
        self.two.build((*shape[:-1], self.filters))

    def call(self, x):
        return self.two(self.one(x))


def test_layers_that_hide_convolutions_are_listed_not_taken():
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2D(4, 3, padding="same", name="seen")(inputs)
    x = L.Add(name="add")([x, Composite(4, name="hides")(x)])
    model = randomised(keras.Model(inputs, head(x)))
    for where in ("conv", "conv_norm"):
        plan = plan_eca(model, where)
        assert plan.paths == ("seen",)
        assert [(one.path, one.reason) for one in plan.skipped] == [
            ("hides", "a layer with 2 convolutions inside that the graph hides")
        ]
    assert plan_eca(model).paths == ("hides",)  # as a branch, its output alone counts
    new = insert_eca(model, example_inputs=data(FOUR))
    assert set(base_state(new)) == set(base_state(model))
    assert "hides/0/kernel" in base_state(new)


@pytest.mark.slow_on("jax")
def test_lambda_wrappers_and_adapted_layers():
    """A lambda, a wrapper around a layer, statistics that no variable of the call shows, a mask."""
    inputs = keras.Input((6, 8, 8, 3))
    scale = L.Normalization(axis=-1, name="scale")
    scale.adapt(5 + 3 * data((4, 6, 8, 8, 3)))
    x = L.Lambda(lambda x: x * 2, name="double")(scale(inputs))
    x = L.TimeDistributed(L.Conv2D(4, 3, padding="same"), name="each")(x)
    x = L.Conv3D(4, 3, padding="same", name="conv")(x)
    model = randomised(keras.Model(inputs, L.GlobalAveragePooling3D()(x)))
    plan = plan_eca(model, "conv")
    assert plan.paths == ("conv",)
    assert plan.skipped[0].path == "each"
    x = data((2, 6, 8, 8, 3))
    new = insert_eca(model, "conv", example_inputs=x)
    other = insert_eca(keras.models.clone_model(new, clone_function=_cloned), ["conv"])
    load_base_state(other, base_state(new))
    np.testing.assert_array_equal(run(other, x)[0], run(model, x)[0])


def _cloned(layer):
    from eca_multi.keras.surgery._wrap.clone import clone_operation

    return clone_operation(layer)


@pytest.mark.slow_on("jax")
def test_masks_pass_through():
    inputs = keras.Input((9,), dtype="int32")
    x = L.Embedding(20, 6, mask_zero=True, name="words")(inputs)
    model = randomised(keras.Model(inputs, L.Dense(3)(L.LSTM(4)(x))))
    words = np.array([[3, 4, 5, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
    new = insert_eca(model, ["words"], example_inputs=words)
    assert new.get_layer("words_eca").output._keras_mask is not None


def test_dropout_continues_where_the_old_one_was():
    """Its seeds are no weights; torch's backend has its own generator and no use for them."""
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, L.Dropout(0.5, name="drop")(L.Conv2D(4, 3, name="conv")(inputs)))
    x = data(FOUR)
    model(x, training=True)
    new = insert_eca(model, "conv")
    one, other = (keras.ops.convert_to_numpy(net.get_layer("drop").variables[0]) for net in (model, new))
    np.testing.assert_array_equal(one, other)
    if keras.backend.backend() != "torch":
        one, other = (keras.ops.convert_to_numpy(net(x, training=True)) for net in (model, new))
        np.testing.assert_array_equal(one, other)


def test_names_that_are_taken_get_a_number():
    inputs = keras.Input((8, 8, 4))
    x = L.ReLU(name="conv_eca")(L.Conv2D(4, 3, name="conv")(inputs))
    new = insert_eca(keras.Model(inputs, x), "conv")
    assert [layer.name for layer in new.layers][1:] == ["conv", "conv_eca_1", "conv_eca"]


def test_outputs_inside_and_integer_tensors():
    inputs = keras.Input((8, 8, 3), dtype="int32", name="image")
    whole = L.Lambda(lambda x: x + 1, name="whole", dtype="int32")(inputs)
    model = keras.Model(inputs, [L.Conv2D(4, 3, name="conv")(L.Rescaling(0.5, name="half")(whole)), whole])
    with pytest.raises(NoSiteError, match=r"whole: int32, not a floating-point tensor"):
        plan_eca(model, ["whole"])
    new = insert_eca(model, "conv")
    assert new.outputs[0]._keras_history.operation.name == "conv_eca"


FRESH = """
import sys, keras, numpy as np
import eca_multi.keras
net = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[2], np.array(keras.ops.convert_to_numpy(net(np.load(sys.argv[3]), training=False))))
print([layer.name for layer in eca_multi.keras.remove_eca(net).layers])
"""


@pytest.mark.slow
def test_reload_in_a_new_process(tmp_path):
    new, x = insert_eca(resnet()), data((2, 16, 16, 3))
    new.save(tmp_path / "net.keras")
    np.save(tmp_path / "x.npy", x)
    files = [str(tmp_path / name) for name in ("net.keras", "y.npy", "x.npy")]
    done = subprocess.run([sys.executable, "-c", FRESH, *files], capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), run(new, x)[0])
    assert str([layer.name for layer in resnet().layers]) in done.stdout
