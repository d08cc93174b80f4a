"""ECA-ResNet and ECA-MobileNetV2 in Keras: names, values against torch's in float64, and what a user does with them."""

import inspect
import re
import sys

import keras
import numpy as np
import pytest
import torch
from torch import nn

import eca_multi.keras as ours
import eca_multi.torch
from eca_multi.checkpoints import CheckpointError
from eca_multi.keras import ECA, _blocks, from_canonical, insert_eca, to_canonical
from eca_multi.keras.networks import ECANetwork
from eca_multi.networks import NETWORKS, STATISTICS, count_parameters, find, kernel_sizes, tensors
from tests.support.networks_keras import (
    BACKEND,
    TINY,
    TOLERANCE,
    build,
    build_torch,
    close,
    float64,
    numpy,
    run,
    run_torch,
    small_networks,
    twins,
)

pytestmark = pytest.mark.keras

NAMES = list(NETWORKS)
SMALL = ["eca_resnet18", "eca_mobilenet_v2", "ecaresnet26t"]


def one_by_default(names):
    return [names[0], *(pytest.param(name, marks=pytest.mark.slow) for name in names[1:])]


# JAX compiles each operation of a new shape, down to the random numbers of a new kernel.
tiny = pytest.mark.parametrize("name", one_by_default(list(TINY)))
not_jax = pytest.mark.slow if BACKEND == "jax" else pytest.mark.keras


@pytest.fixture(scope="module", autouse=True)
def tables():
    with small_networks():
        yield


@pytest.fixture(scope="module")
def small():
    """One for tests that do not change it."""
    return build("tiny_basic", num_classes=3)


def images(*shape, seed=1, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# --- names and sizes ---------------------------------------------------------------------------------------------


@not_jax
@pytest.mark.parametrize("name", one_by_default(NAMES))
def test_layers_and_counts_are_the_originals(name):
    network = find(name)
    model = getattr(ours, name)()
    assert isinstance(model, ECANetwork)
    weights = to_canonical(model)
    assert [(n, a.shape) for n, a in weights.items()] == [(n, t.shape) for n, t in tensors(network).items()]
    trained = sum(np.prod(weight.shape) for weight in model.trainable_weights)
    assert trained == count_parameters(tensors(network))
    assert model.kernel_sizes == kernel_sizes(network)
    assert model.network is network
    modules = {tensor.module.replace(".", "_") for tensor in tensors(network).values()}
    assert {layer.name for layer in model.layers if layer.weights} == modules
    assert model.output_shape == (None, 1000)
    assert model.name == name
    if name in SMALL:
        check_initial_values(network, weights)


def check_initial_values(network, weights):
    """Kaiming over the fan-out, scales 1, biases 0, ECA U(-1/sqrt k, 1/sqrt k), the classifier as in torch."""
    for name, tensor in tensors(network).items():
        array = weights[name]
        if tensor.kind in ("conv", "depthwise") and array.size > 8_000:
            deviation = (2 / (array.shape[0] * array[0, 0].size)) ** 0.5
            assert array.std() == pytest.approx(deviation, rel=0.05), name
        elif tensor.kind == "eca":
            assert np.abs(array).max() <= array.size**-0.5
        elif tensor.kind.startswith("norm_"):
            assert (array == (tensor.kind in ("norm_scale", "norm_var"))).all()
    dense, bias = weights[f"{network.classifier}.weight"], weights[f"{network.classifier}.bias"]
    if network.classifier_spread:
        assert dense.std() == pytest.approx(network.classifier_spread, rel=0.02)
        assert not bias.any()
    else:
        bound = network.width**-0.5
        assert bound * 0.98 < np.abs(bias).max() <= bound
        assert bound * 0.99 < np.abs(dense).max() <= bound


def test_normalisations_are_torchs(small):
    norms = [layer for layer in small.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.epsilon, layer.momentum) for layer in norms} == {(1e-5, 0.9)}


def test_keywords_are_torchs():
    """With the same defaults in the same order; Keras's own stand at the end."""
    for name in NAMES:
        found = [inspect.signature(getattr(package, name)).parameters for package in (ours, eca_multi.torch)]
        mine, theirs = ([(p.name, p.default, p.kind) for p in parameters.values()] for parameters in found)
        assert mine[:7] == theirs[:7]
        assert [(p, default) for p, default, _ in mine[7:]] == [("dtype", None), ("data_format", None), ("name", None)]


# --- values against torch ------------------------------------------------------------------------------------------


def check_outputs(name, size):
    with float64():
        model, other, _ = twins(name, num_classes=7)
        others = build_torch(name, features_only=True, dtype=torch.float64)
        others.load_state_dict({key: v for key, v in other.state_dict().items() if key in others.state_dict()})
        x = images(2, *size, 3)
        logits, *found = run(keras.Model(model.input, [model.output, *feature_maps(model)]), x)
        expected = run_torch(others.eval(), x)
        assert close(logits, run_torch(other.eval(), x))
    assert [f.shape for f in found] == [f.shape for f in expected]
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))
    assert [f.shape[-1] for f in found] == [feature.channels for feature in find(name).features]


def feature_maps(model):
    """What `features_only` returns, from the network with a head."""
    blocks = {block.path: block for block in model.network.blocks}
    ends = {"stem": "relu"}
    for path, block in blocks.items():
        last = f"{path}.relu" if model.network.activation_after_add else block.eca
        ends[path] = last.replace(".", "_")
    return [model.get_layer(ends[feature.path]).output for feature in model.network.features]


@tiny
@pytest.mark.parametrize("size", [(37, 29), pytest.param((40, 24), marks=pytest.mark.slow)])
def test_outputs_and_features_are_torchs(name, size):
    """In float64, where what remains is rounding; odd extents in some stage, and even ones."""
    check_outputs(name, size)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, "eca_resnet50", "ecaresnetlight", "ecaresnext26t_32x4d"])
def test_outputs_and_features_of_whole_networks_are_torchs(name):
    check_outputs(name, (75, 61))


@not_jax
@pytest.mark.parametrize("name", list(TINY))
def test_feature_maps_alone(name):
    whole = build(name, features_only=True)
    backbone = build(name, num_classes=2)
    weights = to_canonical(backbone)
    weights = {key: weights[key] for key in to_canonical(whole)}
    x = images(1, 20, 21, 3, dtype="float32")
    found = run(from_canonical(whole, weights), x)
    expected = run(keras.Model(backbone.input, feature_maps(backbone)), x)
    assert len(found) == len(find(name).features)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_comparison_sees_a_gate():
    with float64():
        model, other, weights = twins("tiny_basic", num_classes=7)
        x = images(2, 21, 18, 3)
        from_canonical(model, {**weights, "layer1.0.eca.weight": weights["layer1.0.eca.weight"] * 0})
        assert not close(run(model, x), run_torch(other.eval(), x))


@pytest.mark.slow_on("jax")
@tiny
def test_a_training_step_is_torchs(name):
    """Loss, batch statistics, their update and one step of SGD, which is the gradient of every weight.

    Keras updates a running variance by the biased estimate, sum / n, and torch by sum / (n - 1).
    """
    classes = 0 if name == "tiny_mobile" else 7
    with float64():
        model, other, weights = twins(name, num_classes=classes)
        x = images(3, 23, 18, 3)
        target = images(3, classes or find(name).width, seed=2)
        counts = {}
        for path, module in other.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(lambda m, i, o, path=path: counts.update({path: o[:, 0].numel()}))
        optimizer = torch.optim.SGD(other.parameters(), 0.5)
        y = other.train()(torch.from_numpy(np.moveaxis(x, -1, 1).copy()))
        loss = torch.nn.functional.mse_loss(y, torch.from_numpy(target))
        loss.backward()
        optimizer.step()
        expected = eca_multi.torch.to_canonical(other)
        model.compile(keras.optimizers.SGD(0.5), "mse", run_eagerly=BACKEND != "jax")
        found_loss = model.train_on_batch(x, target)
        found = to_canonical(model)
    assert float(found_loss) == pytest.approx(loss.item(), rel=TOLERANCE)
    for key, tensor in tensors(find(name), num_classes=classes).items():
        change, wanted = found[key] - weights[key], expected[key] - weights[key]
        if tensor.kind == "norm_var":
            n, old = counts[tensor.module], weights[key]
            wanted = (wanted + 0.1 * old) * (n - 1) / n - 0.1 * old
        assert np.abs(wanted).max() > 0, key
        rounding = 1e-15 * np.abs(weights[key]).max()  # of the difference of two weights
        assert np.abs(change - wanted).max() < rounding + 100 * TOLERANCE * np.abs(wanted).max(), key


# --- keywords ------------------------------------------------------------------------------------------------------


@not_jax
@tiny
def test_pools_and_classifiers(name):
    width = find(name).width
    x = images(2, 20, 20, 3, dtype="float32")
    model, _, weights = twins(name, dtype="float32", num_classes=5)
    weights = {key: w for key, w in weights.items() if not key.startswith(("fc.", "classifier."))}
    middle = run(keras.Model(model.input, model.get_layer("global_pool").input), x)
    assert middle.shape[-1] == width
    for options, expected in (
        ({"global_pool": None}, middle),
        ({"num_classes": 0}, middle.mean((1, 2))),
        ({"num_classes": 0, "global_pool": "max"}, middle.max((1, 2))),
    ):
        found = run(from_canonical(build(name, **options), weights), x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert build(name, num_classes=5, global_pool="max").output_shape == (None, 5)


@not_jax
@tiny
def test_signals(name):
    with float64():
        model, other, _ = twins(name, dims=1, in_channels=2, num_classes=4)
        for length in (1, 50, 101) if BACKEND != "jax" else (101,):
            x = images(2, length, 2)
            assert close(run(model, x), run_torch(other.eval(), x))


@not_jax
@tiny
def test_channels_first(name):
    """On a CPU TensorFlow owes this to oneDNN, which it has on x86 by default."""
    model, _, weights = twins(name, dtype="float32", num_classes=4)
    first = from_canonical(build(name, data_format="channels_first", num_classes=4), weights)
    assert first.input_shape == (None, 3, None, None)
    x = images(2, 20, 21, 3, dtype="float32")
    moved = np.moveaxis(x, -1, 1)
    np.testing.assert_allclose(run(first, moved), run(model, x), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=re.escape("x must be of shape (N, C, H, W) with 3 channels. Received: 20")):
        first(x)


@not_jax
def test_kernel_sizes_can_be_given():
    assert build("tiny_basic", kernel_sizes=[9, 1]).kernel_sizes == (9, 1, 1)
    assert build("tiny_deep", kernel_sizes="adaptive").kernel_sizes == kernel_sizes(TINY["tiny_deep"], "adaptive")


def test_drop_path():
    """Off in inference; in training a sample's branch is dropped or scaled, more often the deeper it lies."""
    model = build("tiny_basic", drop_path=0.5, num_classes=3)
    drops = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert [layer.name for layer in drops] == ["layer2_0_drop_path", "layer2_1_drop_path"]
    assert [layer.rate for layer in drops] == [0.25, 0.5]
    y = numpy(drops[1](np.ones((4000, 2, 1, 3), "float32"), training=True))
    assert set(np.unique(y)) == {0.0, 2.0}
    assert (y == y[:, :1, :, :1]).all()
    assert y.mean() == pytest.approx(1, abs=0.1)
    plain = from_canonical(build("tiny_basic", num_classes=3), to_canonical(model))
    x = images(2, 16, 16, 3, dtype="float32")
    np.testing.assert_allclose(run(model, x), run(plain, x), rtol=1e-5, atol=1e-6)


@not_jax
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16"])
def test_dtypes(dtype):
    model = build("tiny_basic", dtype=dtype, num_classes=2)
    wanted = "bfloat16" if dtype == "bfloat16" else "float32"
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in model.weights} == {wanted}
    assert model.compute_output_spec(keras.KerasTensor((1, 16, 16, 3))).dtype == "bfloat16"
    assert {array.dtype for array in to_canonical(model).values()} == {np.dtype("float32")}


@not_jax
def test_the_global_settings_are_taken(monkeypatch):
    before = keras.config.image_data_format(), keras.config.dtype_policy()
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build("tiny_mobile")
    finally:
        keras.config.set_image_data_format(before[0])
        keras.config.set_dtype_policy(before[1])
    assert model.input_shape == (None, 3, None, None)
    assert model.output.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": -1}, ValueError, "num_classes must be a positive integer"),
        ({"in_channels": 0}, ValueError, "in_channels must be a positive integer"),
        ({"global_pool": "gem"}, ValueError, "global_pool must be 'avg', 'max' or None. Received: global_pool='gem'"),
        ({"drop_path": 1.0}, ValueError, "drop_path must be in [0, 1). Received: drop_path=1.0"),
        ({"dims": 3}, ValueError, "dims must be 1 or 2. Received: dims=3"),
        ({"kernel_sizes": [3, 5, 5]}, ValueError, "must have 4 entries (one per stage) or 8 (one per ECA)"),
        ({"data_format": "NCHW"}, ValueError, "data_format must be 'channels_first' or 'channels_last'. Received"),
    ],
)
def test_bad_keywords(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ours.eca_resnet18(**options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 64, 64), "x must be of shape (N, H, W, C) with 3 channels. Received: rank 3, shape (3, 64, 64)."),
        ((2, 3, 64, 64), "Received: 64 channels, shape (2, 3, 64, 64)."),
        ((2, 3, 4, 64, 64), "Received: rank 5, shape (2, 3, 4, 64, 64). Add or remove axes."),
    ],
)
def test_bad_inputs(small, shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        small(np.empty(shape, "float32"))
    with pytest.raises(ValueError, match=re.escape(message)):
        small(keras.KerasTensor(shape))


# --- weights -------------------------------------------------------------------------------------------------------


@tiny
def test_canonical_weights_go_around(name):
    model, _, weights = twins(name, dtype="float32", num_classes=3)
    again = to_canonical(model)
    assert list(again) == list(weights)
    assert all(np.array_equal(again[key], weights[key]) for key in weights)
    assert {array.dtype for array in again.values()} == {np.dtype("float32")}
    again["conv1.weight" if "conv1.weight" in again else next(iter(again))][:] = 7
    assert all(np.array_equal(array, weights[key]) for key, array in to_canonical(model).items()), "a copy"


def test_weights_that_do_not_fit_change_nothing(small):
    before = to_canonical(small)
    weights = to_canonical(small)
    weights["surplus"] = weights.pop("bn1.bias")
    weights["fc.weight"] = weights["fc.weight"][:2]
    weights["layer1.0.conv1.weight"] = weights["layer1.0.conv1.weight"] * np.nan
    for text in (
        "'bn1.bias' is missing",
        "'surplus' is unexpected",
        "'fc.weight' has shape (2, 24), expected (3, 24)",
        "'layer1.0.conv1.weight' is not finite",
    ):
        with pytest.raises(ValueError, match=re.escape(text)):
            from_canonical(small, weights)
    assert all(np.array_equal(array, before[key]) for key, array in to_canonical(small).items())


@not_jax
def test_half_precision_refuses_what_it_cannot_hold(small):
    weights = to_canonical(small)
    weights["fc.bias"][0] = 1e6
    with pytest.raises(ValueError, match=r"'fc\.bias' is too large for float16"):
        from_canonical(build("tiny_basic", num_classes=3, dtype="float16"), weights)


def test_models_that_are_no_networks(small):
    dense = keras.layers.Dense(2, name="head")
    model = keras.Model(small.input, dense(small.output))
    with pytest.raises(CheckpointError, match=r"2 unexpected: head\.0|2 unexpected: head\.weight"):
        to_canonical(model)
    with pytest.raises(CheckpointError, match="must hold the tensors of a network of this package"):
        from_canonical(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), {})
    with pytest.raises(TypeError, match=r"must be an eca_multi\.keras\.ECA, its weights by name, or a network"):
        to_canonical(dense)


# --- use -----------------------------------------------------------------------------------------------------------


@not_jax
def test_what_a_model_knows(small):
    assert small.network is TINY["tiny_basic"]
    assert small.preprocessing.size == 224
    assert small.kernel_sizes == (3, 5, 5)
    assert small.num_classes == 3
    assert build("tiny_mobile", features_only=True).num_classes == 0
    assert ours.ecaresnet26t.__name__ == "ecaresnet26t"
    named = build("tiny_basic", num_classes=3, name="mine")
    assert named.name == "mine"
    assert named.network is TINY["tiny_basic"]


def test_it_is_still_known_when_made_again(small, tmp_path):
    """From its config, a file, a clone: under its own name or another."""
    x = images(2, 16, 16, 3, dtype="float32")
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(run(loaded, x), run(small, x))
    named = build("tiny_basic", num_classes=3, name="mine")
    made = [loaded, ECANetwork.from_config(named.get_config()), keras.models.clone_model(named)]
    for model in made:
        assert type(model) is ECANetwork
        assert model.network is TINY["tiny_basic"]
        assert model.kernel_sizes == (3, 5, 5)
        assert list(to_canonical(from_canonical(model, to_canonical(small)))) == list(to_canonical(small))
    assert made[1].arch == "tiny_basic"


def gate_then_add(branch, shortcut, block, kernel_size, rate, **factory):
    """The end of a block as it was: the addition is a layer of its own."""
    branch = ECA(kernel_size, name=_blocks.layer_name(block.eca), **factory)(branch)
    return keras.layers.Add(name=f"{_blocks.layer_name(block.path)}_add", dtype=factory["dtype"])([branch, shortcut])


@not_jax
@pytest.mark.parametrize("name", ["tiny_deep", *(pytest.param(n, marks=pytest.mark.slow) for n in TINY)])
def test_files_of_blocks_that_add_in_a_layer_are_read(name, tmp_path, monkeypatch):
    new = build(name, num_classes=3)
    monkeypatch.setattr(_blocks, "gated_sum", gate_then_add)
    old = build(name, num_classes=3)
    for weight in old.weights:
        weight.assign(np.random.default_rng(len(weight.shape)).uniform(0.1, 0.3, weight.shape))
    old.save_weights(tmp_path / "old.weights.h5")
    old.save(tmp_path / "old.keras")
    new.load_weights(tmp_path / "old.weights.h5")
    for one, other in ((old, new), (old, keras.saving.load_model(tmp_path / "old.keras"))):
        assert [w.path for w in one.weights] == [w.path for w in other.weights]  # an optimizer's state has this order
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    x = images(1, 33, 27, 3).astype("float32")
    # Two values that are equal before they are added give one sum, and a fused product rounds once less in each block.
    np.testing.assert_allclose(numpy(new(x)), numpy(old(x)), rtol=64 * 2**-24)


def test_surgery(small):
    """More ECAs go in and out; a network with more is not loaded as if it were one without."""
    x = images(2, 16, 16, 3, dtype="float32")
    more = insert_eca(small, where="conv_norm")
    assert type(more) is ECANetwork
    assert more.preprocessing == small.preprocessing
    assert len(more.kernel_sizes) > 3
    np.testing.assert_allclose(run(more, x), run(small, x), rtol=1e-5, atol=1e-6)
    with pytest.raises(CheckpointError, match=r"unexpected: bn1\.eca"):
        to_canonical(more)
    back = ours.remove_eca(more)
    assert back.kernel_sizes == (3, 5, 5)
    assert list(to_canonical(back)) == list(to_canonical(small))


@not_jax
def test_it_goes_into_another_model(small):
    inputs = keras.Input((None, None, 3))
    whole = keras.Model(inputs, keras.layers.Dense(2)(small(inputs)))
    assert whole.output_shape == (None, 2)
    assert isinstance(whole.get_layer("tiny_basic").get_layer("layer1_0_eca"), ECA)


@pytest.mark.slow_on("jax")
def test_every_weight_learns():
    """With `fit`, through whichever compiler the backend has."""
    keras.utils.set_random_seed(0)
    model = build("tiny_mobile", num_classes=3, drop_path=0.1)
    before = to_canonical(model)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images(8, 32, 32, 3, dtype="float32"), np.arange(8) % 3, batch_size=8, verbose=0)
    after = to_canonical(model)
    assert not [key for key in before if np.array_equal(before[key], after[key])]
    assert {tensor.kind for tensor in tensors(TINY["tiny_mobile"]).values()} >= set(STATISTICS)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel is TensorFlow's")
def test_exports_with_any_size(small, tmp_path):
    import tensorflow as tf

    small.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    x = images(3, 37, 29, 3, dtype="float32")
    np.testing.assert_allclose(loaded.serve(x).numpy(), run(small, x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_deepest_network_is_built_and_read_again(tmp_path):
    """Its graph is deeper than Python lets a function call itself."""
    limit = sys.getrecursionlimit()
    model = ours.ecaresnet269d(num_classes=2)
    model.save(tmp_path / "deep.keras")
    loaded = keras.saving.load_model(tmp_path / "deep.keras")
    assert loaded.kernel_sizes == kernel_sizes(find("ecaresnet269d"))
    assert sys.getrecursionlimit() == limit
