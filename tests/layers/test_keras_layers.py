"""The Keras layer under what Keras can do to a layer, on the backend of the process (KERAS_BACKEND).

Keras's own contract for a layer is `run_layer_test`; the rest is what it leaves open: values against the float64
oracle, masks, dtype policies, configs, files and each backend's compiler.
"""

import inspect
import json
from decimal import Decimal
from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import layers, ops

# Not in Keras's public namespace, though in its wheel: the layer contract, and the mask that a tensor carries.
from keras.src.backend.common.masking import get_keras_mask
from keras.src.testing import TestCase

from eca_multi import eca_kernel_size, reference
from eca_multi.keras import ECA, eca

pytestmark = pytest.mark.keras
BACKEND = keras.backend.backend()

# Float32 rounds at 2**-24. No value here is larger than 8, and no error passes through more than 32 roundings of that
# size: the longest mean has 63 terms, which are added pairwise or in lanes. A wrong formula is off by 1e-2 or more.
ROUNDING = {"rtol": 0, "atol": 32 * 8 * 2**-24}


def draw(rng, shape=(2, 9, 7, 12), kernel=(3, 1, 1), channel_axis=-1):
    """A float32 feature map with an offset for each channel, and an asymmetric kernel."""
    channels = shape[channel_axis]
    offsets = np.moveaxis(rng.uniform(-2, 2, (1,) * (len(shape) - 1) + (channels,)), -1, channel_axis)
    return (rng.normal(size=shape) + offsets).astype("float32"), rng.normal(size=kernel).astype("float32")


def canonical(kernel):
    """(k, 1, 1) to (k,) and (k, 1, C) to (C, k), as the oracle takes it."""
    matrix = np.asarray(kernel, np.float64)[:, 0].T
    return matrix[0] if len(matrix) == 1 else matrix


def oracle(x, kernel, *, channel_axis=-1, **options):
    return reference.forward(x, canonical(kernel), channel_axis=channel_axis, **options).y


def with_kernel(layer, kernel, shape):
    layer.build(shape)
    layer.kernel.assign(kernel)
    return layer


def numpy(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


# --- Keras's contract ---------------------------------------------------------------------------------------------

CONTRACTS = {
    "rank 3": ((2, 9, 12), {}),
    "rank 4": ((2, 9, 7, 12), {}),
    "rank 5": ((2, 3, 5, 4, 12), {}),
    "channels first": ((2, 12, 9, 7), {"data_format": "channels_first"}),
    "ECA-NS, circular": ((2, 9, 7, 12), {"shared": False, "padding": "circular", "gate": "2sigmoid"}),
    "callable gate": ((2, 9, 12), {"gate": keras.activations.softplus}),
    "regularised": ((2, 9, 12), {"kernel_regularizer": "l2"}),
    "mixed_float16": ((2, 9, 12), {"dtype": "mixed_float16"}),
    "mixed_bfloat16": ((2, 9, 12), {"dtype": "mixed_bfloat16"}),
}


@pytest.mark.parametrize(("shape", "options"), CONTRACTS.values(), ids=CONTRACTS)
def test_layer_contract(shape, options):
    TestCase().run_layer_test(
        ECA,
        init_kwargs=options,
        input_shape=shape,
        expected_output_shape=shape,
        expected_output_dtype=options.get("dtype", "mixed_float32").removeprefix("mixed_"),
        expected_num_trainable_weights=1,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=1 if "kernel_regularizer" in options else 0,
        supports_masking=True,
    )


def test_the_contract_can_fail():
    with pytest.raises(AssertionError, match="Unexpected supports_masking value"):
        TestCase().run_layer_test(ECA, init_kwargs={}, supports_masking=False)


# --- configuration ------------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="test_keras_layers")
def shifted_tanh(logits):
    return ops.tanh(logits) + 1


# Each argument of the constructor with another value than its default; two rows, for some exclude each other.
FULL = {
    "kernel_size": 5,
    "gamma": 3,
    "beta": 0.5,
    "padding": "circular",
    "gate": keras.activations.relu,
    "shared": False,
    "data_format": "channels_first",
    "kernel_initializer": keras.initializers.RandomNormal(stddev=0.25, seed=3),
    "kernel_regularizer": keras.regularizers.L1L2(l1=0.25, l2=0.5),
    "kernel_constraint": keras.constraints.MaxNorm(max_value=1.5),
    "name": "attention",
    "dtype": "mixed_bfloat16",
    "trainable": False,
}
CONFIGS = [
    pytest.param(FULL, id="full"),
    pytest.param({"init": "identity", "gate": "2sigmoid"}, id="identity"),
    pytest.param({"gate": shifted_tanh}, id="own gate"),
    pytest.param({}, id="defaults"),
]


def through_json(config):
    return json.loads(json.dumps(config))


def comparable(value):
    """Initializers and their like have no equality; what they are built from has."""
    return (type(value), value.get_config()) if hasattr(value, "get_config") else value


def test_the_table_names_every_argument():
    parameters = set(inspect.signature(ECA).parameters) - {"kwargs"}
    assert parameters <= FULL.keys() | {"init"}
    assert parameters <= ECA().get_config().keys()


@pytest.mark.parametrize("options", CONFIGS)
def test_every_argument_survives_the_config(options):
    layer = ECA(**options)
    config = layer.get_config()
    before = through_json(config)
    twin = ECA.from_config(config)
    revived = keras.saving.deserialize_keras_object(through_json(keras.saving.serialize_keras_object(layer)))
    assert through_json(config) == before  # from_config leaves its argument alone
    for other in (twin, revived):
        assert through_json(other.get_config()) == before
        for name in set(inspect.signature(ECA).parameters) - {"kwargs"}:
            assert comparable(getattr(other, name)) == comparable(getattr(layer, name)), name
        assert (other.name, other.dtype_policy.name, other.trainable) == (
            layer.name,
            layer.dtype_policy.name,
            layer.trainable,
        )


def test_it_is_registered():
    assert keras.saving.get_registered_name(ECA) == "eca_multi>ECA"
    assert keras.saving.get_registered_object("eca_multi>ECA") is ECA


@pytest.fixture
def channels_first():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format(before)


def test_data_format_defaults_to_keras_setting(channels_first):
    layer = ECA()
    assert (layer.data_format, layer.channel_axis) == ("channels_first", 1)
    assert ECA(data_format="channels_last").channel_axis == -1
    keras.config.set_image_data_format("channels_last")
    assert ECA().channel_axis == -1
    assert layer.channel_axis == 1  # fixed at construction, and in its config
    assert ECA.from_config(layer.get_config()).channel_axis == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"data_format": "channels"},
            "data_format must be 'channels_first' or 'channels_last'",
        ),
        (
            {"init": "identity", "gate": "2sigmoid", "kernel_initializer": "ones"},
            "kernel_initializer must be None when init='identity'. Received: kernel_initializer='ones'",
        ),
    ],
    ids=["data_format", "two initialisers"],
)
def test_arguments_that_only_keras_has_are_checked(options, match):
    with pytest.raises(ValueError, match=match):
        ECA(**options)


def test_kernel_initializer_replaces_init():
    layer = ECA(5, kernel_initializer="ones")
    layer.build((None, 9, 12))
    assert (numpy(layer.kernel) == 1).all()


@pytest.mark.parametrize("k", [1, 3, 9])
def test_initial_kernels_are_uniform_within_one_over_sqrt_k(k):
    layer = ECA(k, shared=False)
    layer.build((None, 9, 3000))
    kernel, bound = numpy(layer.kernel), k**-0.5
    assert np.abs(kernel).max() <= bound
    # 3000 or more uniform draws: the largest is within 1 % of the bound but for a chance of 0.99**3000 = 1e-13, and
    # the standard error of the mean is at most bound / sqrt(3 * 3000), so that 6 of them are 0.064 bounds.
    assert np.abs(kernel).max() > 0.99 * bound
    assert abs(kernel.mean()) < 0.064 * bound


# --- build and shapes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shape", "axes", "kernel"),
    [
        ({}, (None, None, None, 12), {-1: 12}, (3, 1, 1)),
        ({}, (None, None, 200), {-1: 200}, (5, 1, 1)),
        ({"shared": False}, (None, None, None, 12), {-1: 12}, (3, 1, 12)),
        ({"data_format": "channels_first"}, (None, 200, None, None), {1: 200}, (5, 1, 1)),
    ],
)
def test_build_needs_the_channels_alone(options, shape, axes, kernel):
    layer = ECA(**options)
    layer.build(shape)
    assert layer.built
    assert {variable.path.split("/")[-1]: tuple(variable.shape) for variable in layer.weights} == {"kernel": kernel}
    assert (layer.input_spec.min_ndim, layer.input_spec.axes) == (3, axes)
    assert layer.compute_output_shape(shape) == shape


@pytest.mark.parametrize("shape", [(None, None, 12), (None, None, None, 12), (None, 5, None, 7, 12)])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_symbolic_call_keeps_unknown_extents(shape, dtype):
    x = keras.KerasTensor(shape, dtype="float32")
    mask = keras.KerasTensor(shape[:-1], dtype="bool")
    layer = ECA(dtype=dtype)
    for spec in (layer.compute_output_spec(x), layer(x), layer(x, mask=mask)):
        assert spec.shape == shape
        assert spec.dtype == dtype.removeprefix("mixed_")


@pytest.mark.parametrize("masked", [False, True])
def test_function_takes_symbolic_tensors(masked):
    """As every function of keras.ops does."""
    mask = keras.KerasTensor((None, None, None), dtype="bool") if masked else None
    y = eca(keras.KerasTensor((None, None, None, 12)), ops.ones((3, 1, 1)), mask=mask)
    assert y.shape == (None, None, None, 12)


@pytest.mark.parametrize("options", [{}, {"kernel_size": 3}], ids=["by the rule", "k given"])
def test_unknown_channels_are_refused(options):
    with pytest.raises(ValueError, match="the number of channels must be known when the layer is built"):
        ECA(**options)(keras.Input((9, 7, None)))


@pytest.mark.parametrize("symbolic", [False, True], ids=["tensor", "KerasTensor"])
def test_a_built_layer_takes_no_other_channels(symbolic):
    layer = ECA()
    layer.build((None, None, None, 12))
    x = keras.Input((9, 7, 13)) if symbolic else ops.ones((2, 9, 7, 13))
    with pytest.raises(ValueError, match=r"x must be of 12 channels\. Received: 13 channels at axis 3"):
        layer(x)


def test_rank_2_is_refused():
    with pytest.raises(ValueError, match=r"x must be of rank 3 or more\. Received: rank 2"):
        ECA()(ops.ones((2, 12)))
    with pytest.raises(ValueError, match=r"x must be of rank 3 or more\. Received: rank 2"):
        ECA().compute_output_shape((None, 12))


# --- values under dtype policies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channel_axis", [-1, 1])
def test_output_is_the_oracles(channel_axis, rng):
    shape = (2, 9, 7, 12) if channel_axis == -1 else (2, 12, 9, 7)
    x, kernel = draw(rng, shape, channel_axis=channel_axis)
    layer = with_kernel(ECA(data_format="channels_last" if channel_axis == -1 else "channels_first"), kernel, shape)
    np.testing.assert_allclose(numpy(layer(x)), oracle(x, kernel, channel_axis=channel_axis), **ROUNDING)


@pytest.mark.parametrize(("low", "roundoff"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_mixed_precision_rounds_the_input_and_the_output_alone(low, roundoff, rng):
    x, kernel = draw(rng)
    layer = with_kernel(ECA(dtype=f"mixed_{low}"), kernel, x.shape)
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == low
    assert keras.backend.standardize_dtype(layer.kernel.dtype) == "float32"
    x = numpy(ops.cast(x, low))
    # One rounding of y to the low precision; everything before it is float32, the kernel too.
    tolerance = {"rtol": roundoff, "atol": ROUNDING["atol"]}
    np.testing.assert_allclose(numpy(y), oracle(x, kernel), **tolerance)
    rounded = numpy(ops.cast(kernel, low))
    assert not np.allclose(numpy(y), oracle(x, rounded), **tolerance)  # a kernel cast first would be seen


def test_the_dtype_of_the_policy_wins_over_the_inputs():
    assert keras.backend.standardize_dtype(ECA()(np.ones((2, 9, 12), "float64")).dtype) == "float32"


# --- masks --------------------------------------------------------------------------------------------------------

TOKENS = np.array([[3, 1, 4, 0, 0], [2, 7, 0, 1, 8], [0, 0, 0, 0, 0]])  # 0 is padding; the last row has nothing else


def test_embedding_mask_bounds_the_mean_and_is_passed_on(rng):
    _, kernel = draw(rng)
    embedding, layer = layers.Embedding(9, 12, mask_zero=True), with_kernel(ECA(), kernel, (None, 5, 12))
    x = embedding(TOKENS)
    y = layer(x)
    np.testing.assert_allclose(numpy(y), oracle(numpy(x), kernel, mask=TOKENS != 0), **ROUNDING)
    assert not np.allclose(numpy(y), oracle(numpy(x), kernel), atol=1e-4)  # the mask matters
    np.testing.assert_array_equal(ops.convert_to_numpy(get_keras_mask(y)), TOKENS != 0)


def test_masking_layer_in_a_model_reaches_the_layer_behind(rng):
    """GlobalAveragePooling1D averages over the mask that ECA passes on."""
    x, kernel = draw(rng, (2, 9, 12))
    x[0, 6:] = x[1, 2:] = -1.0
    layer = ECA()
    inputs = keras.Input((None, 12))
    outputs = layers.GlobalAveragePooling1D()(layer(layers.Masking(-1.0)(inputs)))
    layer.kernel.assign(kernel)
    y = oracle(x, kernel, mask=np.arange(9) < [[6], [2]])
    expected = [y[0, :6].mean(0), y[1, :2].mean(0)]
    np.testing.assert_allclose(numpy(keras.Model(inputs, outputs)(x)), expected, **ROUNDING)


@pytest.mark.parametrize(
    ("shape", "mask_shape"),
    [
        ((2, 9, 7, 12), (2, 9)),  # Keras's own: (N, T)
        ((2, 9, 7, 12), (2, 9, 7)),
        ((2, 9, 7, 12), (2, 9, 1)),
        ((2, 9, 7, 12), (1, 1, 7)),
        ((2, 9, 12), (2, 9)),
        ((2, 9, 12), (9,)),
        ((2, 4, 3, 5, 12), (2, 4)),
    ],
)
def test_mask_argument(shape, mask_shape, rng):
    x, kernel = draw(rng, shape)
    mask = rng.random(mask_shape) < 0.6
    layer = with_kernel(ECA(), kernel, shape)
    of_positions = mask.reshape(2, -1, *(1,) * (len(shape) - 3)) if mask_shape == shape[:2] else mask
    expected = oracle(x, kernel, mask=of_positions)
    np.testing.assert_allclose(numpy(layer(x, mask=mask)), expected, **ROUNDING)
    np.testing.assert_allclose(numpy(layer(x, mask=ops.convert_to_tensor(mask))), expected, **ROUNDING)


def test_mask_argument_in_channels_first(rng):
    x, kernel = draw(rng, (2, 12, 9, 7), channel_axis=1)
    layer = with_kernel(ECA(data_format="channels_first"), kernel, x.shape)
    mask = rng.random((2, 9, 7)) < 0.6
    expected = oracle(x, kernel, channel_axis=1, mask=mask)
    np.testing.assert_allclose(numpy(layer(x, mask=mask)), expected, **ROUNDING)


@pytest.mark.parametrize("symbolic", [False, True], ids=["tensor", "KerasTensor"])
@pytest.mark.parametrize(
    ("mask_shape", "dtype", "error", "match"),
    [
        ((2, 8), "bool", ValueError, "mask must be broadcastable to"),
        ((2, 8, 7), "bool", ValueError, "mask must be broadcastable to"),
        ((2, 9, 7, 12), "bool", ValueError, "mask must be broadcastable to"),
        ((2, 9), "float32", TypeError, "mask must be a boolean tensor"),
        ((2, 9, 7), "float32", TypeError, "mask must be a boolean tensor"),
    ],
)
def test_bad_masks_are_refused(symbolic, mask_shape, dtype, error, match):
    layer = ECA()
    layer.build((2, 9, 7, 12))
    make = keras.KerasTensor if symbolic else ops.ones
    with pytest.raises(error, match=match):
        layer(make((2, 9, 7, 12)), mask=make(mask_shape, dtype=dtype))


# --- models: training, files, clones ------------------------------------------------------------------------------


def functional(layer, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


MODELS = {
    "Functional": functional,
    "Sequential": lambda layer, shape: keras.Sequential([keras.Input(shape), layer]),
}


@pytest.mark.parametrize("build_model", MODELS.values(), ids=MODELS)
def test_one_step_of_training_is_the_oracles(build_model, rng):
    x, kernel = draw(rng)
    target = rng.normal(size=x.shape).astype("float32")
    layer = ECA()
    model = build_model(layer, (None, None, 12))
    layer.kernel.assign(kernel)
    model.compile(keras.optimizers.SGD(0.5), loss="mse")
    loss = model.fit(x, target, batch_size=2, epochs=1, verbose=0).history["loss"][0]
    y = oracle(x, kernel)
    dw = reference.backward(x, canonical(kernel), 2 * (y - target) / y.size, channel_axis=-1).dw
    # The loss adds 1512 squares of up to 25: the mean is about 2, and a running sum of n rounds at sqrt(n) / 2**24.
    np.testing.assert_allclose(loss, np.square(y - target).mean(), rtol=64 * 2**-24)
    np.testing.assert_allclose(numpy(layer.kernel)[:, 0, 0], kernel[:, 0, 0] - 0.5 * dw, **ROUNDING)
    assert np.abs(0.5 * dw).max() > 1e-3  # the step is to be seen


def test_regulariser_and_constraint_act_on_the_kernel(rng):
    x, kernel = draw(rng)
    layer = ECA(kernel_regularizer=keras.regularizers.L2(0.5), kernel_constraint=keras.constraints.NonNeg())
    model = functional(layer, (None, None, 12))
    layer.kernel.assign(kernel)
    np.testing.assert_allclose(numpy(sum(layer.losses)), 0.5 * np.square(kernel).sum(), **ROUNDING)
    model.compile(keras.optimizers.SGD(1e-3), loss="mse")
    model.fit(x, x, verbose=0)
    assert kernel.min() < -0.1
    assert numpy(layer.kernel).min() == 0


def small_model(rng, **options):
    """Convolution, ECA with an asymmetric kernel and every non-default option that a model can have, and pooling."""
    layer = ECA(5, padding="circular", gate=keras.activations.softplus, kernel_regularizer="l2", **options)
    inputs = keras.Input((None, None, 3))
    x = layer(layers.Conv2D(12, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    layer.kernel.assign(rng.normal(size=layer.kernel.shape))
    return model


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_keras_file_keeps_every_bit(dtype, tmp_path, rng):
    model = small_model(rng, dtype=dtype, shared=False)
    x = rng.normal(size=(2, 9, 7, 3)).astype("float32")
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path, safe_mode=True)  # no custom_objects: the layer is registered
    assert isinstance(again.layers[2], ECA)
    assert again.layers[2].dtype_policy.name == dtype
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_weights_file_keeps_every_bit(tmp_path, rng):
    model, other = small_model(rng), small_model(rng)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    other.load_weights(path)
    np.testing.assert_array_equal(numpy(other.layers[2].kernel), numpy(model.layers[2].kernel))


def test_clone_model_gives_a_fresh_layer_with_the_same_options(rng):
    model = small_model(rng, shared=False)
    clone = keras.models.clone_model(model)
    mine, others = model.layers[2], clone.layers[2]
    assert others is not mine
    assert through_json(others.get_config()) == through_json(mine.get_config())
    assert not np.array_equal(numpy(others.kernel), numpy(mine.kernel))
    clone.set_weights(model.get_weights())
    x = rng.normal(size=(2, 9, 7, 3)).astype("float32")
    np.testing.assert_array_equal(clone.predict(x, verbose=0), model.predict(x, verbose=0))


# --- each backend's compiler --------------------------------------------------------------------------------------


@pytest.mark.skipif(BACKEND != "torch", reason="torch.compile needs the torch backend")
@pytest.mark.parametrize("masked", [False, True])
def test_torch_compile(masked, rng):
    import torch

    torch._dynamo.reset()
    x, kernel = draw(rng)
    mask = rng.random((2, 9, 7)) < 0.6 if masked else None
    layer = with_kernel(ECA(), kernel, x.shape)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y = compiled(torch.from_numpy(x), mask=torch.from_numpy(mask) if masked else None)
    np.testing.assert_allclose(numpy(y), oracle(x, kernel, mask=mask), **ROUNDING)
    y.sum().backward()
    dw = reference.backward(x, canonical(kernel), np.ones_like(x), channel_axis=-1, mask=mask).dw
    # dw adds 1512 products of up to 8: a sum of n terms rounds at sqrt(n) / 2**24 of their size.
    np.testing.assert_allclose(layer.kernel.value.grad.numpy()[:, 0, 0], dw, rtol=0, atol=1512 * 8 * 2**-24)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function needs the tensorflow backend")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_tf_function_of_unknown_extents(jit_compile, masked, rng):
    import tensorflow as tf

    _, kernel = draw(rng)
    layer = with_kernel(ECA(), kernel, (None, None, None, 12))
    signature = [tf.TensorSpec([None, None, None, 12]), tf.TensorSpec([None, None, None], tf.bool)]
    traces = []

    @tf.function(jit_compile=jit_compile, input_signature=signature if masked else signature[:1])
    def run(x, mask=None):
        traces.append(x.shape)
        return layer(x, mask=mask)

    for shape in [(2, 9, 7, 12), (3, 5, 8, 12)]:
        x, _ = draw(rng, shape)
        mask = rng.random(shape[:3]) < 0.6 if masked else None
        y = run(x, mask) if masked else run(x)
        np.testing.assert_allclose(numpy(y), oracle(x, kernel, mask=mask), **ROUNDING)
    assert {tuple(shape) for shape in traces} == {(None, None, None, 12)}


@pytest.mark.skipif(BACKEND != "jax", reason="jax.jit needs the jax backend")
@pytest.mark.parametrize("masked", [False, True])
def test_jax_jit_and_grad_of_stateless_call(masked, rng):
    import jax

    x, kernel = draw(rng)
    mask = rng.random((2, 9, 7)) < 0.6 if masked else None
    layer = with_kernel(ECA(), np.zeros_like(kernel), x.shape)

    def run(kernel, x, mask):
        y, non_trainable = layer.stateless_call([kernel], [], x, mask=mask)
        assert non_trainable == []
        return y

    y = jax.jit(run)(kernel, x, mask)
    np.testing.assert_allclose(numpy(y), oracle(x, kernel, mask=mask), **ROUNDING)
    grad = jax.jit(jax.grad(lambda *args: run(*args).sum()))(kernel, x, mask)
    dw = reference.backward(x, canonical(kernel), np.ones_like(x), channel_axis=-1, mask=mask).dw
    # dw adds 1512 products of up to 8: a sum of n terms rounds at sqrt(n) / 2**24 of their size.
    np.testing.assert_allclose(np.asarray(grad)[:, 0, 0], dw, rtol=0, atol=1512 * 8 * 2**-24)


def test_a_config_loses_no_digit_of_a_constant():
    layer = ECA(gamma=Fraction(5, 3), beta=Decimal(0), kernel_size=None)
    config = json.loads(json.dumps(layer.get_config()))
    for each in (layer, ECA.from_config(config)):
        each.build((None, 5, 1024))
        assert each.kernel.shape[0] == eca_kernel_size(1024, gamma=Fraction(5, 3), beta=0) == 7


def test_a_short_config_takes_the_defaults():
    assert ECA.from_config({"kernel_size": 3}).gate == "sigmoid"
