"""Every add of a Keras network has a site, or stands in the plan with its place and its reason."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from eca_multi.keras import (
    base_state,
    eca_parameters,
    eca_state,
    infer_plan,
    insert_eca,
    installed_eca,
    plan_eca,
    remove_eca,
)
from eca_multi.keras.surgery.verify import run
from eca_multi.surgery.errors import NoSiteError, VerifyError
from eca_multi.surgery.reasons import DIFFERENT_ORIGIN, MERGE, NO_CONVOLUTION, PARALLEL, POOLED
from tests.support.surgery_keras_nets import data, randomised, trace_of

pytestmark = pytest.mark.keras
X = (2, 8, 8, 4)


@keras.saving.register_keras_serializable("tests")
class ScaledAdd(L.Layer):
    """As InceptionResNetV2's CustomScaleLayer."""

    def __init__(self, scale=0.3, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, inputs):
        return inputs[0] + inputs[1] * self.scale

    def get_config(self):
        return super().get_config() | {"scale": self.scale}


@keras.saving.register_keras_serializable("tests")
class Product(L.Layer):
    def call(self, inputs):
        return inputs[0] * inputs[1]


@keras.saving.register_keras_serializable("tests")
class Block(L.Layer):
    """A residual block as a layer: its add is Python code."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.conv = L.Conv2D(filters, 3, padding="same", name="conv")
        self.add = L.Add(name="add")

    def call(self, x):
        return self.add([x, self.conv(x)])

    def get_config(self):
        return super().get_config() | {"filters": self.filters}


def conv(x, name, *, strides=1):
    return L.Conv2D(4, 3, strides, padding="same", name=name)(x)


def net(make):
    inputs = keras.Input(X[1:], name="image")
    return randomised(keras.Model(inputs, make(inputs), name="net"))


ADDING = {
    "scaled": lambda x: ScaledAdd(name="add")([x, conv(x, "branch")]),
    "lambda": lambda x: L.Lambda(lambda t: t[0] + 0.5 * t[1], name="add")([x, conv(x, "branch")]),
    "operator": lambda x: x + 0.5 * conv(x, "branch"),
}


@pytest.mark.parametrize("make", ADDING.values(), ids=ADDING)
def test_layers_that_add_in_their_own_way(make):
    model = net(make)
    new = insert_eca(model, example_inputs=data(X))
    assert len(installed_eca(new).entries) == 1
    assert installed_eca(new).paths == plan_eca(model).paths


def pooled(x):
    """As in NASNet: a pooled copy of a map that others get too."""
    y = conv(x, "c")
    return L.Multiply(name="both")([y, L.Add(name="end")([x, L.MaxPooling2D(3, 1, "same", name="pool")(y)])])


def test_a_pooling_layer_may_end_a_branch():
    """As in Xception, where nobody else gets the map before it."""
    plan = plan_eca(net(lambda x: L.Add(name="end")([x, L.MaxPooling2D(3, 1, "same", name="pool")(conv(x, "c"))])))
    assert plan.paths == ("pool",)


SKIPPED = {
    "product": (lambda x: Product(name="end")([x, conv(x, "branch")]), None),
    "pooled": (lambda x: pooled(x), POOLED),
    "parallel": (lambda x: L.Add(name="end")([conv(x, "a"), conv(x, "b")]), PARALLEL),
    "merge": (lambda x: L.Add(name="end")([x, L.UpSampling2D(name="up")(conv(x, "c", strides=2))]), MERGE),
    "positions": (lambda x: L.Add(name="end")([x, L.ReLU(name="relu")(x)]), NO_CONVOLUTION),
}


@pytest.mark.parametrize(("make", "reason"), SKIPPED.values(), ids=SKIPPED)
def test_adds_that_are_no_residual_adds_say_so(make, reason):
    def with_control(x):
        end = make(x)
        return L.Add(name="control")([end, conv(end, "last")])

    plan = plan_eca(net(with_control))
    assert plan.paths == ("last",)
    assert {skip.path: skip.reason for skip in plan.skipped_adds} == ({"end": reason} if reason else {})


def test_maps_of_different_origin_are_no_residual_add():
    one, two = keras.Input(X[1:], name="one"), keras.Input(X[1:], name="two")
    model = keras.Model([one, two], L.Add(name="end")([one, conv(two, "branch")]))
    with pytest.raises(NoSiteError, match=r"1 candidate, none taken \(end: adds maps of different origin"):
        plan_eca(model)
    assert DIFFERENT_ORIGIN.startswith("adds maps of different origin")


def test_adds_inside_of_a_layer_are_listed():
    model = net(lambda x: Block(4, name="block")(L.Add(name="add")([x, conv(x, "branch")])))
    before = trace_of(model), [len(part._inbound_nodes) for part in model.get_layer("block")._flatten_layers()]
    plan = plan_eca(model)
    assert plan.paths == ("branch",)
    assert [(skip.path, skip.what) for skip in plan.skipped] == [("block/add", "add")]
    assert "inside of the layer 'block' (Block), whose code the graph hides" in str(plan)
    after = trace_of(model), [len(part._inbound_nodes) for part in model.get_layer("block")._flatten_layers()]
    assert after == before
    assert plan_eca(model, ["block"]).paths == ("block",)  # what the reason offers


@keras.saving.register_keras_serializable("tests")
class Tokens(L.Layer):
    """Repeats a weight for each sample, as a class token; its config does not make it again."""

    def __init__(self, made_from, how, **kwargs):
        super().__init__(**kwargs)
        self.how, self.conv, self.dense = how, L.Conv2D(4, 1, name="conv"), L.Dense(4, name="dense")

    def build(self, shape):
        self.scale = self.add_weight(shape=(1, 1, 4), initializer="ones", name="scale")

    def call(self, x):
        x = self.conv(x)
        if self.how == "maps":
            self.seen = x  # what a call leaves in a layer must not stay after a plan
            return x + self.dense(x)
        size = ops.shape(x)
        tokens = ops.reshape(x, (size[0], size[1] * size[2], 4)) * ops.repeat(self.scale, size[0], axis=0)
        if self.how == "values":
            return x * float(ops.max(tokens) > 0)
        tokens = tokens + self.dense(tokens) if self.how == "tokens" else tokens
        return ops.reshape(tokens, ops.shape(x))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("maps", {"block/add": "inside of the layer 'block' (Tokens)"}),
        ("tokens", {"block/add": "adds tokens (N, T, C)"}),
        ("none", {}),
    ],
)
def test_adds_inside_of_a_layer_are_read_from_the_layer_itself(how, expected):
    model = net(lambda x: Tokens(1, how, name="block")(L.Add(name="add")([x, conv(x, "branch")])))
    block = model.get_layer("block")
    names, nodes = set(vars(block)), [len(part._inbound_nodes) for part in block._flatten_layers()]
    seen = getattr(block, "seen", None)
    found = {skip.path: skip.reason for skip in plan_eca(model).skipped_adds}
    assert found.keys() == expected.keys()
    assert all(text in found[path] for path, text in expected.items())
    assert found == {skip.path: skip.reason for skip in plan_eca(model).skipped_adds}, "names come from the layer alone"
    assert set(vars(block)) == names
    assert [len(part._inbound_nodes) for part in block._flatten_layers()] == nodes
    assert getattr(block, "seen", None) is seen


def test_the_output_of_a_layer_with_several_outputs_is_not_offered():
    class Stages(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.conv = L.Conv2D(4, 1, name="conv")

        def call(self, x):
            return x, x + self.conv(x)

        def compute_output_shape(self, shape):
            return shape, shape

    model = net(lambda x: Stages(name="block")(L.Add(name="add")([x, conv(x, "branch")]))[1])
    (skip,) = plan_eca(model).skipped_adds
    assert skip.path == "block/add"
    assert skip.reason.endswith("whose code the graph hides: build the layer's network with the Functional API")


def test_a_layer_that_cannot_be_read_says_so():
    class Values(Tokens):
        def compute_output_shape(self, shape):
            return (*shape[:-1], 4)

        def compute_output_spec(self, x):
            return keras.KerasTensor((*x.shape[:-1], 4), dtype="float32")

    model = net(lambda x: Values(1, "values", name="block")(L.Add(name="add")([x, conv(x, "branch")])))
    (skip,) = plan_eca(model).skipped_adds
    assert skip.path == "block"
    assert "the code of the layer 'block' (Values) could not be read (" in skip.reason
    assert "so its adds are not known: gate the layer's output, where=['block']" in skip.reason


def test_time_distributed_is_entered(tmp_path):
    frame = keras.Input(X[1:], name="frame")
    inner = keras.Model(frame, L.Add(name="add")([frame, conv(frame, "branch")]), name="inner")
    video = keras.Input((3, *X[1:]), name="video")
    model = randomised(keras.Model(video, L.TimeDistributed(inner, name="frames")(video), name="net"))
    x = data((2, 3, *X[1:]))
    new = insert_eca(model, example_inputs=x)
    assert installed_eca(new).paths == plan_eca(model).paths == ("frames/inner/branch",)
    assert list(eca_state(new)) == ["frames/inner/branch_eca/kernel"]
    assert (
        sorted(base_state(new))
        == sorted(base_state(model))
        == ["frames/inner/branch/bias", "frames/inner/branch/kernel"]
    )
    for kernel in eca_parameters(new):
        kernel.assign(np.full(kernel.shape, 0.3, "float32"))
    new.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(run(again, x)[0], run(new, x)[0])
    assert not np.array_equal(run(new, x)[0], run(model, x)[0])
    np.testing.assert_array_equal(run(remove_eca(again), x)[0], run(model, x)[0])


def test_paths_come_in_one_order():
    """Two branches into one cell, the later add first: as in NASNet. ECAs move what stands beside them."""

    def cell(x):
        a, b = conv(x, "a"), conv(conv(x, "c"), "b")
        return L.Add(name="late")([b, L.Add(name="early")([x, a])])

    model = net(lambda x: L.Add(name="out")([x, conv(cell(x), "d")]))
    plan = plan_eca(model)
    new = insert_eca(model, plan=plan)
    assert len(plan.paths) > 1
    assert installed_eca(new).paths == plan.paths
    assert infer_plan(model, eca_state(new)).paths == plan.paths
    assert infer_plan(model, eca_state(new)) == installed_eca(new) == plan


def test_an_axis_that_nothing_tells_is_asked_for():
    class Own(L.Layer):
        def call(self, x):
            return x * 2.0

    inputs = keras.Input((8, 8, 8))
    model = keras.Model(inputs, Own(name="own")(inputs))
    with pytest.raises(NoSiteError, match=r"own: nothing says which axis holds its channels"):
        plan_eca(model, ["own"])
    for axis, layout in ((1, "channels_first"), (-1, "channels_last")):
        new = insert_eca(model, ["own"], overrides={"own": {"channel_axis": axis}}, example_inputs=data((2, 8, 8, 8)))
        assert installed_eca(new).entries[0].layout == layout


def test_verify_sees_a_gate_over_another_axis(monkeypatch):
    """Where C equals H, outputs and shapes are those of the right axis: the identity start cannot tell."""
    from eca_multi.keras.layers import ECA

    model = keras.Model(image := keras.Input((8, 8, 8)), L.Conv2D(8, 1, name="conv")(image))
    x = data((2, 8, 8, 8))
    new = insert_eca(model, "conv", example_inputs=x)
    np.testing.assert_array_equal(run(new, x)[0], run(model, x)[0])  # the probe is gone
    monkeypatch.setattr(ECA, "channel_axis", property(lambda layer: 1))
    with pytest.raises(VerifyError, match=r"conv: with a kernel off the identity, it is not ECA over axis -1"):
        insert_eca(model, "conv", example_inputs=x)
