"""Sites, plans and removal of ECA in Keras networks. Graphs of all forms: test_keras_graphs.py."""

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
    infer_plan,
    insert_eca,
    installed_eca,
    load_base_state,
    load_eca_state,
    plan_eca,
    remove_eca,
)
from eca_multi.keras.surgery.verify import run
from eca_multi.surgery.errors import NoSiteError, PlanMismatchError, UnsupportedModelError
from eca_multi.surgery.plan import ECAPlan
from tests.support.surgery_keras_nets import RESIDUAL, data, efficient, mobile, names, resnet, step, trace_of

pytestmark = pytest.mark.keras
# JAX compiles each operation of each network on its own: there the default run has one alone.
IN_JAX = keras.backend.backend() == "jax"
FIRST = ("convnext",) if IN_JAX else ("resnet", "efficient", "convnext")
SOME = [pytest.param(name, marks=[pytest.mark.slow] * (name not in FIRST)) for name in RESIDUAL]
EVERY = SOME if IN_JAX else list(RESIDUAL)


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
    assert "parallel branches" in reasons["tie"]
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


@pytest.mark.slow_on("jax")
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
    with pytest.raises(
        UnsupportedModelError, match=r"in the place of block0_se_excite, block1_se_excite, whose weights were dropped"
    ):
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
    with pytest.raises(NoSiteError, match=r"norm: its output is \(N, tokens, C\)"):
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
    with pytest.raises(
        NoSiteError, match=r"include must match a site.*'x', which matches none. Near: block0_2_bn, block1_2_bn"
    ):
        remove_eca(new, include="x")
    with pytest.raises(NoSiteError, match=r"The network must have ECA. Received: a Functional without it"):
        remove_eca(resnet())
    assert installed_eca(resnet()).entries == ()
