"""ECA into keras.applications, with random weights: building these networks takes seconds each."""

import warnings

import keras
import numpy as np
import pytest

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
from tests.support.surgery_keras_nets import data

pytestmark = pytest.mark.keras

SHAPE = (64, 64, 3)
# How many sites each `where` finds, and the first and the last of "residual".
NETWORKS = {
    "ResNet50": ({"residual": 16, "block": 16, "conv_norm": 53}, "conv2_block1_3_bn", "conv5_block3_3_bn"),
    "ResNet50V2": ({"residual": 16, "block": 16, "conv_norm": 53}, "conv2_block1_3_conv", "conv5_block3_3_conv"),
    "MobileNetV2": ({"residual": 10, "block": 17, "conv_norm": 52}, "block_2_project_BN", "block_15_project_BN"),
    "MobileNetV3Small": (
        {"residual": 6, "block": 11, "conv_norm": 34, "se": 9},
        "expanded_conv_2_project_bn",
        "expanded_conv_10_project_bn",
    ),
    "EfficientNetB0": (
        {"residual": 9, "block": 16, "conv_norm": 49, "se": 16},
        "block2b_project_bn",
        "block6d_project_bn",
    ),
    "ConvNeXtTiny": (
        {"residual": 18, "block": 18, "conv_norm": 22},
        "convnext_tiny_stage_0_block_0_layer_scale",
        "convnext_tiny_stage_3_block_2_layer_scale",
    ),
}


def build(name, seed=0):
    """Random weights, norm scales, statistics and layer scales; without the classifier."""
    model = getattr(keras.applications, name)(weights=None, include_top=False, pooling="avg", input_shape=SHAPE)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance") or weight.name.startswith("variable"):  # ConvNeXt's LayerScale
            weight.assign(rng.uniform(0.5, 1.5, weight.shape).astype("float32"))
        elif weight.name in ("beta", "moving_mean"):
            weight.assign(rng.normal(0, 0.1, weight.shape).astype("float32"))
        elif weight.name == "kernel":
            deviation = (2 / np.prod(weight.shape[:-1])) ** 0.5
            weight.assign(rng.normal(0, deviation, weight.shape).astype("float32"))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_sites_equal_outputs_gradients_and_undo(name):
    counts, first, last = NETWORKS[name]
    model, x = build(name), data((2, *SHAPE))
    assert {where: len(plan_eca(model, where).entries) for where in counts} == counts
    plan = plan_eca(model)
    assert (plan.paths[0], plan.paths[-1]) == (first, last)
    before = run(model, x)[0]

    new = insert_eca(model, example_inputs=x)
    np.testing.assert_array_equal(run(new, x)[0], before)
    assert installed_eca(new).paths == plan.paths

    back = remove_eca(new)
    assert [layer.name for layer in back.layers] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(run(back, x)[0], before)

    for layer in new.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0  # EfficientNet drops whole branches: of both samples now and then, and with them a gradient
    new.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    new.train_on_batch(x, np.ones_like(before))
    kernels = [keras.ops.convert_to_numpy(kernel) for kernel in eca_parameters(new)]
    assert len(kernels) == counts["residual"]
    assert all(np.isfinite(kernel).all() and np.abs(kernel).max() > 0 for kernel in kernels)

    load_base_state(new, base_state(model))
    for kernel in eca_parameters(new):
        kernel.assign(np.full(kernel.shape, 0.5, "float32"))
    assert np.abs(run(new, x)[0] - before).max() > 1e-3 * np.abs(before).max()


@pytest.mark.slow
def test_other_networks():
    """Where branches meet otherwise: plans alone."""
    none = {"weights": None, "include_top": False, "input_shape": (96, 96, 3)}
    assert len(plan_eca(keras.applications.Xception(**none)).entries) == 12
    with pytest.raises(LookupError, match=r"where='residual'.*Try where='conv_norm' \(120 sites\)"):
        plan_eca(keras.applications.DenseNet121(**none))


@pytest.mark.slow
def test_replaced_squeeze_and_excitation():
    model = keras.applications.EfficientNetB0(weights=None, input_shape=SHAPE, classes=10)
    new = insert_eca(model, "se", example_inputs=data((2, *SHAPE)))
    assert sum(isinstance(layer, ECA) for layer in new.layers) == 16
    assert new.count_params() < model.count_params() - 600_000
    assert not any("_se_" in layer.name and not isinstance(layer, ECA) for layer in new.layers)


def wrong_layers(model, state):
    """How many layers with weights do not hold their own."""
    now = base_state(model)
    return {key.rpartition("/")[0] for key in state if not np.array_equal(now[key], state[key])}


@pytest.mark.slow
def test_skip_mismatch_puts_wrong_weights_into_layers(tmp_path):
    """The hazard that load_base_state avoids: Keras numbers layers by their place, and insertion moves them."""
    old, x = build("ResNet50"), data((2, *SHAPE))
    old.save_weights(tmp_path / "old.weights.h5")
    state = base_state(old)
    layers = {key.rpartition("/")[0] for key in state}

    new = insert_eca(build("ResNet50", seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        new.load_weights(tmp_path / "old.weights.h5", skip_mismatch=True)
    wrong = wrong_layers(new, state)
    initial = base_state(build("ResNet50", seed=1))
    silent = {
        layer
        for layer in wrong
        if not np.array_equal(base_state(new)[f"{layer}/{var(state, layer)}"], initial[f"{layer}/{var(state, layer)}"])
    }
    assert (len(layers), len(wrong), len(silent)) == (106, 16, 10)

    new = insert_eca(build("ResNet50", seed=1))
    load_base_state(new, tmp_path / "old.weights.h5")
    assert not wrong_layers(new, state)
    np.testing.assert_array_equal(run(new, x)[0], run(old, x)[0])


def var(state, layer):
    """The first variable of a layer."""
    return next(key for key in state if key.startswith(f"{layer}/")).rpartition("/")[2]
