"""The Keras layer under what Keras does to a layer, on the backend of the process: contract, shapes, dtypes, masks.

Keras's own contract for a layer is `run_layer_test`; the rest is what the contract leaves open.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

# Not in Keras's public namespace, though in its wheel: the layer contract, and the mask that a tensor carries.
from keras.src.backend.common.masking import get_keras_mask
from keras.src.testing import TestCase

from eca_multi.keras import ECA, eca
from tests.support.layers_keras import ROUNDING, draw, numpy, oracle, with_kernel

pytestmark = pytest.mark.keras

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


@pytest.mark.parametrize("several", [list, tuple, lambda xs: dict(enumerate(xs))])
def test_one_tensor_is_expected(several):
    x = np.ones((2, 4, 4, 8), "float32")
    for tensor in (x, keras.KerasTensor(x.shape)):
        with pytest.raises(
            TypeError, match=r"x must be one tensor. Received: a (list|tuple|dict) of 2. Call the layer once"
        ):
            ECA()(several([tensor, tensor]))
