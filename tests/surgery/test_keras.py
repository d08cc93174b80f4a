"""ECA into Keras networks: plan, insert, remove, states, errors. Graphs of all forms: test_surgery_keras_graphs.py."""

import copy
import random

import keras
import numpy as np
import pytest
from keras import layers as L

from eca_multi.keras import (
    ECA,
    base_state,
    eca_parameters,
    eca_state,
    freeze_except_eca,
    infer_plan,
    insert_eca,
    installed_eca,
    load_base_state,
    load_eca_state,
    plan_eca,
    remove_eca,
)
from eca_multi.keras.surgery._arguments import run
from eca_multi.keras.surgery._graph import Network
from eca_multi.keras.surgery._inserted import InsertedECA
from eca_multi.surgery.errors import (
    ChannelInferenceError,
    NoSiteError,
    PlanMismatchError,
    UnsupportedModelError,
    VerifyError,
)
from eca_multi.surgery.plan import ECAPlan
from tests.support.surgery_keras_nets import RESIDUAL, data, efficient, mobile, randomised, resnet, sequence

pytestmark = pytest.mark.keras
# JAX compiles each operation of each network on its own: there the default run has one alone.
IN_JAX = keras.backend.backend() == "jax"
FIRST = ("convnext",) if IN_JAX else ("resnet", "efficient", "convnext")
SOME = [pytest.param(name, marks=[pytest.mark.slow] * (name not in FIRST)) for name in RESIDUAL]
EVERY = SOME if IN_JAX else list(RESIDUAL)


def names(model):
    return [layer.name for layer in model.layers]


def trace_of(model):
    """All that surgery must leave alone in a model: weights, flags, configs, and the records of its calls."""
    calls = [(len(op._inbound_nodes), len(op._outbound_nodes)) for op in Network(model).leaves()]
    flags = [(layer.name, layer.trainable, layer.built) for layer in model._flatten_layers()]
    weights = {key: value.tobytes() for key, value in base_state(model).items()}
    return copy.deepcopy((calls, flags, weights, model.get_config(), names(model)))


def step(model, x):
    """One step of gradient descent on all that is trained."""
    y = np.ones((len(x), 5), "float32")
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False, run_eagerly=keras.backend.backend() != "jax")
    model.train_on_batch(x, y)


# --- residual branches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_residual_sites_equal_outputs_and_exact_undo(name):
    build, sites, shape = RESIDUAL[name]
    model, x = build(), data(shape)
    before, untouched = run(model, x), trace_of(model)
    plan = plan_eca(model)
    assert plan.paths == sites
    assert all(entry.action == "before_add" and entry.calls == 1 for entry in plan.entries)
    assert plan.keeps_output
    assert trace_of(model) == untouched

    new = insert_eca(model, example_inputs=x)
    assert [layer.name for layer in new.layers if isinstance(layer, ECA)] == [f"{site}_eca" for site in sites]
    np.testing.assert_array_equal(run(new, x)[0], before[0])
    assert installed_eca(new).paths == sites

    back = remove_eca(new)
    assert names(back) == names(model)
    assert [type(layer) for layer in back.layers] == [type(layer) for layer in model.layers]
    np.testing.assert_array_equal(run(back, x)[0], before[0])
    assert all(np.array_equal(a, b) for a, b in zip(back.get_weights(), model.get_weights(), strict=True))
    assert trace_of(model) == untouched


@pytest.mark.slow_on("jax")
@pytest.mark.parametrize("name", SOME)
def test_kernels_matter_and_each_gets_a_gradient(name):
    build, sites, shape = RESIDUAL[name]
    model, x = build(), data(shape)
    new = insert_eca(model)
    step(new, x)
    kernels = eca_parameters(new)
    assert len(kernels) == len(sites)
    assert all(np.abs(keras.ops.convert_to_numpy(kernel)).min() > 0 for kernel in kernels)
    again = insert_eca(model)
    for kernel in eca_parameters(again):
        kernel.assign(np.full(kernel.shape, 0.7, "float32"))
    before, after = run(model, x)[0], run(again, x)[0]
    assert np.abs(after - before).max() > 0.01 * np.abs(before).max()


def test_the_gate_stands_on_the_edge_into_the_add():
    """Others who get the same tensor get it as it was, and dropout comes behind the gate."""
    inputs = keras.Input((8, 8, 4))
    y = L.BatchNormalization(name="bn")(L.Conv2D(4, 3, padding="same")(inputs))
    z = L.Add(name="add")([inputs, L.Dropout(0.5, name="drop")(y)])
    new = insert_eca(keras.Model(inputs, [z, y]))
    layers = {layer.name: layer for layer in new.layers}
    assert layers["drop"]._inbound_nodes[0].input_tensors[0]._keras_history.operation is layers["bn_eca"]
    assert new.outputs[1]._keras_history.operation is layers["bn"]
    (entry,) = installed_eca(new).entries
    assert (entry.path, entry.into, entry.action) == ("bn", "add", "before_add")


@pytest.mark.slow_on("jax")
def test_adds_that_are_no_residual_ones_are_listed_with_a_reason():
    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    conv = {name: L.Conv2D(4, 3, padding="same", name=name) for name in "pqrs"}
    tie = L.Add(name="tie")([conv["p"](a), conv["q"](a)])
    strangers = L.Add(name="strangers")([conv["s"](conv["r"](a)), L.Conv2D(4, 1, name="t")(b)])
    bare = L.Add(name="bare")([tie, L.ReLU()(tie)])
    tokens = L.Reshape((64, 4))(bare)
    tokens = L.Add(name="tokens")([tokens, L.Dense(4)(tokens)])
    flat = L.GlobalAveragePooling1D()(tokens)
    flat = L.Add(name="flat")([flat, L.Dense(4)(flat)])
    with pytest.raises(NoSiteError, match=r"where='residual'.*5 candidates.*Try where='conv_norm' \(5 sites\)"):
        plan_eca(keras.Model([a, b], [strangers, flat]))
    y = L.Add(name="real")([bare, L.Conv2D(4, 1, name="branch")(bare)])
    plan = plan_eca(keras.Model([a, b], [strangers, flat, y]))
    assert plan.paths == ("branch",)
    reasons = {one.path: one.reason for one in plan.skipped}
    assert set(reasons) == {"tie", "strangers", "bare", "tokens", "flat"}
    assert "1 convolutions of its own" in reasons["tie"]
    assert "different origin" in reasons["strangers"]
    assert "no convolution" in reasons["bare"]
    assert "tokens" in reasons["tokens"]
    assert "rank 2" in reasons["flat"]


# --- other places ---------------------------------------------------------------------------------------------------


@pytest.mark.slow_on("jax")
def test_block_finds_blocks_without_a_skip_by_their_names():
    model = mobile()
    plan = plan_eca(model, "block")
    assert plan.paths == ("block_0_project_bn", "block_1_project_bn", "block_2_project_bn")
    assert [entry.action for entry in plan.entries] == ["after", "before_add", "after"]
    assert plan_eca(RESIDUAL["convnext"][0](), "block").paths == RESIDUAL["convnext"][1]
    x = data()
    np.testing.assert_array_equal(run(insert_eca(model, "block", example_inputs=x), x)[0], run(model, x)[0])


def test_block_says_what_to_use_where_names_tell_no_blocks():
    inputs = keras.Input((8, 8, 4))
    x = L.Add()([inputs, L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(inputs))])
    with pytest.raises(NoSiteError, match=r"where='block'.*Try where='residual' \(1 sites\)"):
        plan_eca(keras.Model(inputs, x), "block")


@pytest.mark.slow_on("jax")
def test_conv_norm_conv_and_norm():
    model = resnet()
    convs = [layer.name for layer in model.layers if isinstance(layer, L.Conv2D)]
    assert set(plan_eca(model, "conv").paths) == set(convs)
    assert "norm follows" in plan_eca(model, "conv").entries[0].notes[0]
    assert set(plan_eca(model, "conv_norm").paths) == {name.replace("_conv", "_bn") for name in convs}
    assert set(plan_eca(model, "norm").paths) == {name.replace("_conv", "_bn") for name in convs}
    bare = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3, activation="relu", name="c"), L.Flatten()])
    plan = plan_eca(bare, "conv_norm")
    assert plan.paths == ("c",)
    assert "gates after the activation (relu)" in plan.entries[0].notes[0]


def test_se_blocks_are_replaced_and_their_layers_dropped():
    model = efficient()
    plan = plan_eca(model, "se")
    assert plan.paths == ("block0_se_excite", "block1_se_excite")
    assert not plan.keeps_output
    assert "its 148 parameters are dropped" in plan.entries[0].notes[0]
    new = insert_eca(model, "se", example_inputs=data())
    assert new.count_params() == model.count_params() - 2 * 148 + 2 * 3
    assert not [name for name in names(new) if "_se_" in name and not name.endswith("_eca")]
    assert installed_eca(new).paths == plan.paths
    with pytest.raises(UnsupportedModelError, match=r"block0_se_excite, block1_se_excite, whose SE layers"):
        remove_eca(new)
    load_base_state(new, base_state(model))  # passes over the weights of the SE blocks
    np.testing.assert_array_equal(base_state(new)["stem_conv/kernel"], base_state(model)["stem_conv/kernel"])
    inside = {one.path: one.reason for one in plan_eca(model, "conv").skipped}
    assert inside["block0_se_reduce"] == "inside of the SE block block0_se_excite"


def test_an_se_block_written_with_operators_is_found():
    inputs = keras.Input((8, 8, 6))
    x = L.Conv2D(6, 3, name="conv")(inputs)
    s = keras.ops.sigmoid(L.Dense(6)(L.Dense(2, activation="relu")(keras.ops.mean(x, axis=(1, 2), keepdims=True))))
    assert len(plan_eca(keras.Model(inputs, x * s), "se").entries) == 1
    assert len(plan_eca(keras.Model(inputs, s * x), "se").entries) == 1
    with pytest.raises(NoSiteError, match=r"where='se'"):
        plan_eca(keras.Model(inputs, L.Conv2D(6, 3, padding="same")(x) * s), "se")


def test_a_list_of_paths_and_a_callable():
    model = resnet()
    assert plan_eca(model, ["block1_add", "stem_relu"]).paths == ("stem_relu", "block1_add")
    assert plan_eca(model, lambda path, layer: isinstance(layer, L.ReLU) and "out" in path).paths == (
        "block0_out",
        "block1_out",
    )
    reasons = {one.path: one.reason for one in plan_eca(model, ["block1_add", "pool", "image"]).skipped}
    assert "rank 2" in reasons["pool"]
    assert reasons["image"] == "an input of the model"
    with pytest.raises(NoSiteError, match=r"'block1_ad', which matches none. Near: block1_add"):
        plan_eca(model, ["block1_ad"])


def test_tokens_are_left_alone_unless_named():
    inputs = keras.Input((8, 8, 3))
    tokens = L.LayerNormalization(name="norm")(L.Reshape((16, 6))(L.Conv2D(6, 2, 2, name="patches")(inputs)))
    model = keras.Model(inputs, tokens)
    with pytest.raises(NoSiteError, match=r"norm: \(N, T, C\) without a 1-D convolution"):
        plan_eca(model, "norm")
    assert plan_eca(model, ["norm"]).entries[0].channels == 6


def test_selection_and_kernel_sizes():
    model = resnet()
    assert plan_eca(model, exclude=["block0_2_bn"]).paths == ("block1_2_bn",)
    assert plan_eca(model, include=r"block1.*").paths == ("block1_2_bn",)
    assert set(plan_eca(model, "conv", min_channels=16).paths) == {"block0_0_conv", "block0_2_conv", "block1_2_conv"}
    plan = plan_eca(model, kernel_size=5, overrides={"block0.*": {"kernel_size": 7}})
    assert [entry.kernel_size for entry in plan.entries] == [7, 5]
    assert [layer.kernel.shape[0] for layer in insert_eca(model, plan=plan).layers if isinstance(layer, ECA)] == [7, 5]


def test_the_papers_start_says_that_outputs_will_change():
    plan = plan_eca(resnet(), gate="sigmoid", init="uniform")
    assert not plan.keeps_output
    assert "outputs will change" in plan.notes[0]
    insert_eca(resnet(), gate="sigmoid", init="uniform", example_inputs=data())


# --- plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_a_saved_plan_replays_on_a_new_model(name, tmp_path):
    build, sites, shape = RESIDUAL[name]
    first = insert_eca(build())
    for n, kernel in enumerate(eca_parameters(first)):
        kernel.assign(np.full(kernel.shape, 0.1 * (n + 1), "float32"))
    plan_eca(build()).save(tmp_path / "plan.json")
    second = insert_eca(build(), plan=ECAPlan.load(tmp_path / "plan.json"))
    load_eca_state(second, eca_state(first))
    load_base_state(third := insert_eca(build(), plan=infer_plan(build(), eca_state(first))), base_state(first))
    load_eca_state(third, eca_state(first))
    assert installed_eca(second).paths == installed_eca(third).paths == sites
    load_base_state(second, base_state(first))
    load_eca_state(second, eca_state(first))
    np.testing.assert_array_equal(run(second, data(shape))[0], run(first, data(shape))[0])
    np.testing.assert_array_equal(run(third, data(shape))[0], run(first, data(shape))[0])


def test_a_plan_of_another_architecture_lists_all_differences():
    plan = plan_eca(resnet(), ["stem_bn", "block0_1_bn", "block0_1_relu"])
    other = keras.Sequential(
        [keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.BatchNormalization(name="stem_bn"), L.ReLU(name="block0_1_bn")]
    )
    expected = r"4 differences: stem_bn: has 4 channels, the plan's 8; block0_1_bn: is a ReLU.*; block0_1_relu: is not"
    with pytest.raises(PlanMismatchError, match=expected):
        insert_eca(other, plan=plan)


def test_a_second_insertion_never_nests():
    model = insert_eca(resnet())
    again = insert_eca(model)
    assert names(again) == names(model)
    assert {one.reason for one in plan_eca(model).skipped} == {"already has ECA"}
    assert names(insert_eca(model, plan=plan_eca(resnet()))) == names(model)
    more = insert_eca(model, "conv_norm")
    assert len(installed_eca(more).entries) == len(plan_eca(resnet(), "conv_norm").entries)
    assert names(remove_eca(more)) == names(resnet())


def test_plan_and_insert_draw_no_random_numbers():
    model = resnet()
    random.seed(3)
    state = random.getstate()
    insert_eca(model, example_inputs=data())
    assert random.getstate() == state


def test_a_network_with_eca_of_its_own():
    """It is seen, and trained with the others, but not taken out."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", name="conv")(inputs)
    y = ECA(name="own")(L.BatchNormalization(name="bn")(L.Conv2D(8, 3, padding="same", name="conv2")(x)))
    x = L.Add(name="add")([x, y])
    model = keras.Model(inputs, L.Add(name="add2")([x, L.Conv2D(8, 1, name="conv3")(x)]))
    plan = plan_eca(model)
    assert plan.paths == ("conv3",)
    assert [(one.path, one.reason) for one in plan.skipped] == [("bn", "already has ECA")]
    new = insert_eca(model)
    assert len(eca_parameters(new)) == 2
    assert installed_eca(new).paths == ("conv3",)
    assert "own" in names(remove_eca(new))


def test_removal_of_some():
    new = insert_eca(resnet())
    assert installed_eca(remove_eca(new, include=["block0_2_bn"])).paths == ("block1_2_bn",)
    assert installed_eca(remove_eca(new, include=r"block1.*")).paths == ("block0_2_bn",)
    with pytest.raises(NoSiteError, match=r"include='x'; there is ECA at block0_2_bn, block1_2_bn"):
        remove_eca(new, include="x")
    with pytest.raises(NoSiteError, match="no ECA of insert_eca in the model"):
        remove_eca(resnet())
    assert installed_eca(resnet()).entries == ()


# --- what the new model keeps ---------------------------------------------------------------------------------------


@pytest.mark.slow_on("jax")
def test_training_the_new_model_leaves_the_old_one_alone():
    model, x = resnet(), data()
    before = trace_of(model)
    new = insert_eca(model)
    step(new, x)
    assert trace_of(model) == before
    assert not np.array_equal(base_state(new)["stem_conv/kernel"], base_state(model)["stem_conv/kernel"])


def test_trainable_flags_and_a_frozen_model():
    model = resnet()
    model.get_layer("stem_conv").trainable = False
    new = insert_eca(model)
    assert [layer.name for layer in new.layers if not layer.trainable] == ["stem_conv"]
    model.trainable = False
    new = insert_eca(model)
    assert [v.path for v in new.trainable_variables] == ["block0_2_bn_eca/kernel", "block1_2_bn_eca/kernel"]
    assert "the model is frozen: of the new one the ECAs alone are trained" in plan_eca(model).notes
    assert not model.trainable


def test_freeze_except_eca_trains_nothing_else():
    model, x = insert_eca(resnet()), data()
    assert freeze_except_eca(model) is model
    before = base_state(model)
    step(model, x)
    after = base_state(model)
    assert all(np.array_equal(before[key], after[key]) for key in before)  # moving statistics among them
    assert all(np.abs(kernel).max() > 0 for kernel in eca_state(model).values())
    with pytest.raises(NoSiteError, match=r"must have ECA. Received: 'resnet' without any"):
        freeze_except_eca(resnet())


def test_compile_settings_are_carried_over():
    model = resnet()
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    new = insert_eca(model)
    assert new.compiled
    assert isinstance(new.optimizer, keras.optimizers.Adam)
    assert new.optimizer is not model.optimizer
    assert len([v for v in new.optimizer.variables if "kernel" in v.path and "eca" in v.path]) > 0
    assert "compile settings are carried over, the optimizer's state is not" in plan_eca(model).notes

    def own_loss(y, p):
        return keras.ops.mean((y - p) ** 2)

    model.compile("sgd", loss=own_loss)
    with pytest.warns(UserWarning, match=r"not compiled: what 'resnet' was compiled with cannot be made again"):
        assert not insert_eca(model).compiled


def test_reload_without_custom_objects(tmp_path):
    new, x = insert_eca(RESIDUAL["efficient"][0]()), data()
    for kernel in eca_parameters(new):
        kernel.assign(np.full(kernel.shape, 0.3, "float32"))
    new.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(run(again, x)[0], run(new, x)[0])
    assert installed_eca(again) == installed_eca(new)
    assert names(remove_eca(again)) == names(efficient())


def test_get_layer_outputs_make_models():
    new = insert_eca(resnet())
    features = keras.Model(new.inputs, new.get_layer("block1_2_bn_eca").output)
    assert features.output_shape == (None, 8, 8, 16)


# --- states ---------------------------------------------------------------------------------------------------------


def test_old_weight_files_load_through_load_base_state(tmp_path):
    """And not through load_weights: see test_skip_mismatch_puts_wrong_weights_into_layers."""
    old, x = resnet(), data()
    old.compile("adam", "mse")
    old.save_weights(tmp_path / "old.weights.h5")
    old.save(tmp_path / "old.keras")
    fresh = insert_eca(randomised(resnet(), seed=7))
    assert not np.array_equal(run(fresh, x)[0], run(old, x)[0])
    for source in (tmp_path / "old.weights.h5", str(tmp_path / "old.keras"), base_state(old)):
        new = insert_eca(randomised(resnet(), seed=7))
        new.compile("sgd", "mse")
        eca_parameters(new)[0].assign(np.ones((3, 1, 1), "float32"))
        assert load_base_state(new, source) is new
        np.testing.assert_array_equal(run(new, x)[0], run(old, x)[0])


def test_states_name_weights_as_the_plain_network_does():
    model = resnet()
    new = insert_eca(model)
    assert set(base_state(new)) == set(base_state(model))
    assert "block0_2_bn/moving_variance" in base_state(new)
    assert list(eca_state(new)) == ["block0_2_bn_eca/kernel", "block1_2_bn_eca/kernel"]
    state = base_state(new)
    state["stem_conv/kernel"][:] = 0  # a copy
    assert np.abs(base_state(new)["stem_conv/kernel"]).max() > 0


def test_states_are_strict_and_leave_the_model_alone_on_failure():
    new = insert_eca(resnet())
    before = base_state(new)
    wrong = dict(before)
    del wrong["head/bias"]
    wrong["extra/kernel"] = np.zeros(3)
    wrong["stem_bn/beta"] = np.zeros(3)
    wrong["stem_conv/kernel"] = wrong["stem_conv/kernel"] * 2
    expected = r"3 differences: head/bias: missing; extra/kernel: unexpected; stem_bn/beta: shape \(3,\), the model's"
    with pytest.raises(ValueError, match=expected):
        load_base_state(new, wrong)
    assert all(np.array_equal(before[key], value) for key, value in base_state(new).items())
    with pytest.raises(ValueError, match=r"block1_2_bn_eca/kernel: missing"):
        load_eca_state(new, {"block0_2_bn_eca/kernel": np.zeros((3, 1, 1))})
    with pytest.raises(NoSiteError, match="must have ECA from insert_eca"):
        eca_state(resnet())


def test_infer_plan_errors():
    state = eca_state(insert_eca(resnet()))
    with pytest.raises(NoSiteError, match="2 keys, none of them"):
        infer_plan(resnet(), {"a/kernel": 1, "b/kernel": 2})
    with pytest.raises(PlanMismatchError, match="2 differences: block0_2_bn: is not there"):
        infer_plan(mobile(), state)


# --- bad input ------------------------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.Conv2D(4, 3)

    def call(self, x):
        return self.conv(x)


class OwnCall(keras.Model):
    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


def own_call():
    inputs = keras.Input((8, 8, 3))
    return OwnCall(inputs, L.Conv2D(4, 3)(inputs))


def nested_subclass():
    return keras.Sequential([keras.Input((8, 8, 3)), Subclassed(name="inner")], name="outer")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: 3, r"Functional or Sequential keras.Model. Received: int"),
        (lambda: L.Conv2D(4, 3, name="conv"), r"the layer 'conv' \(Conv2D\). Put it into keras.Sequential"),
        (lambda: Subclassed(name="mine"), r"'mine', a subclassed model \(Subclassed\)"),
        (nested_subclass, r"'inner', a subclassed model \(Subclassed\)"),
        (own_call, r"whose class OwnCall has a call of its own"),
    ],
    ids=["no-model", "layer", "subclassed", "nested-subclassed", "own-call"],
)
def test_models_that_cannot_be_changed(make, message):
    model = make()
    for function in (plan_eca, insert_eca, remove_eca, installed_eca, eca_parameters, base_state):
        with pytest.raises(UnsupportedModelError, match=message):
            function(model)


def test_a_traced_model_is_refused():
    model = resnet()
    before = trace_of(model)

    class Asks(L.Layer):
        def call(self, x):
            insert_eca(model)
            return x

    with pytest.raises(Exception, match="'resnet' while a function is being traced"):
        Asks()(keras.Input((3,)))  # Keras traces the layer's call to know its output
    assert trace_of(model) == before


def test_arguments_are_checked():
    model = resnet()
    with pytest.raises(ValueError, match=r"where='slot', which fills timm's"):
        plan_eca(model, "slot")
    with pytest.raises(ValueError, match=r"where='slot', which fills timm's"):
        insert_eca(model, "slot")
    with pytest.raises(ValueError, match=r"Did you mean 'residual'"):
        plan_eca(model, "residuals")
    with pytest.raises(TypeError, match=r"inplace must be False"):
        insert_eca(model, inplace=True)
    with pytest.raises(ValueError, match=r"plan must be given alone"):
        insert_eca(model, plan=plan_eca(model), kernel_size=3)
    with pytest.raises(TypeError, match=r"plan must be an ECAPlan. Received: str"):
        insert_eca(model, plan="plan.json")
    with pytest.raises(ValueError, match=r"verify=True without them"):
        insert_eca(model, verify=True)
    with pytest.raises(NoSiteError, match=r"include must match a site"):
        insert_eca(model, include="nothing")
    with pytest.raises(ValueError, match=r"init"):
        plan_eca(model, gate="sigmoid")


def test_channels_that_nobody_knows():
    model = keras.Sequential([L.Dense(4), L.BatchNormalization(name="bn"), L.Conv2D(8, 3, name="conv")])
    with pytest.raises(ChannelInferenceError, match=r"at 'bn' \(BatchNormalization\).*Pass example_inputs"):
        plan_eca(model, "norm")
    assert plan_eca(model, "norm", example_inputs=data((2, 8, 8, 3))).entries[0].channels == 4
    assert plan_eca(model, "norm", kernel_size=3).entries[0].channels == 0
    assert plan_eca(model, "conv").entries[0].channels == 8
    assert not model.built


@pytest.mark.parametrize("site", [0, 1])
def test_a_failure_on_the_way_leaves_the_model_as_it_was(site, monkeypatch):
    model = resnet()
    model.compile("sgd", "mse")
    before, optimizer = trace_of(model), model.optimizer
    built = []
    build = InsertedECA.build

    def failing(self, shape):
        built.append(self.name)
        if len(built) == site + 1:
            raise RuntimeError("out of luck")
        build(self, shape)

    monkeypatch.setattr(InsertedECA, "build", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        insert_eca(model)
    assert trace_of(model) == before
    assert model.optimizer is optimizer


def test_verification_finds_a_changed_output_and_a_lost_call(monkeypatch):
    model, x = resnet(), data()
    plan = plan_eca(model)
    with monkeypatch.context() as patch:
        call = InsertedECA.call
        patch.setattr(InsertedECA, "call", lambda self, x, mask=None: call(self, x, mask) * 1.001)
        with pytest.raises(VerifyError, match="outputs differ"):
            insert_eca(model, example_inputs=x)
        insert_eca(model, example_inputs=x, verify=False)
    with monkeypatch.context() as patch:
        patch.setattr(Network, "times", lambda self, operation: 0)
        with pytest.raises(VerifyError, match="block0_2_bn: base called 1 times, its ECA 0"):
            insert_eca(model, plan=plan, example_inputs=x, verify=True)


def test_a_layer_that_cannot_be_made_again():
    class Odd(L.Layer):
        def __init__(self, function, **kwargs):
            super().__init__(**kwargs)
            self.function = function

        def call(self, x):
            return self.function(x)

    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, name="conv")(Odd(lambda x: x, name="odd")(inputs))
    with pytest.raises(UnsupportedModelError, match=r"Received: 'odd' \(Odd\), which cannot.*Give Odd a get_config"):
        insert_eca(keras.Model(inputs, x), "conv")


# --- the founding question ------------------------------------------------------------------------------------------


def digits():
    """Real sequences: the 8 rows of each digit, 8 pixels each."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8) / 16).astype("float32"), labels


@pytest.mark.slow
@pytest.mark.parametrize("with_eca", [False, True])
def test_the_two_layer_classifier_learns_digits(with_eca):
    keras.utils.set_random_seed(0)
    model = sequence((8, 8))
    if with_eca:
        model = insert_eca(model, "conv", example_inputs=data((2, 8, 8)))
        assert names(model)[:3] == ["conv1", "conv1_eca", "relu1"]
    x, y = digits()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"], jit_compile=False)
    model.fit(x[:1500], y[:1500], batch_size=100, epochs=20, verbose=0)
    accuracy = model.evaluate(x[1500:], y[1500:], batch_size=99, verbose=0)[1]
    assert accuracy > 0.8
    if with_eca:
        assert all(np.abs(kernel).max() > 0 for kernel in eca_state(model).values())
