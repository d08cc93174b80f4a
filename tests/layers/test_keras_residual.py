"""The residual of the Keras layer: a second tensor argument in models, beside Keras's own mask, and in files."""

import keras
import numpy as np
import pytest
from keras import layers, ops

# Not in Keras's public namespace, though in its wheel: the mask that a tensor carries.
from keras.src.backend.common.masking import get_keras_mask

from eca_multi.keras import ECA, eca
from tests.support.layers_keras import ROUNDING, draw, numpy, oracle, with_kernel

pytestmark = pytest.mark.keras
BACKEND = keras.backend.backend()


@pytest.fixture
def padded(rng):
    """x with zeros behind each sample's end, a residual, a kernel, and the mask; layers.Masking keeps zeros."""
    x, kernel = draw(rng, (2, 9, 12))
    valid = np.arange(9) < [[6], [2]]
    x[~valid] = 0
    return x, rng.normal(size=x.shape).astype("float32"), kernel, valid


class Block(keras.Model):
    """A user's own block, in which the residual is passed by name."""

    def __init__(self, eca):
        super().__init__()
        self.masking, self.eca = layers.Masking(), eca

    def call(self, inputs):
        x, residual = inputs
        return self.eca(self.masking(x), residual=residual)


def functional(layer):
    x, residual = keras.Input((None, 12)), keras.Input((None, 12))
    return keras.Model([x, residual], layer(layers.Masking()(x), residual=residual))


@pytest.mark.parametrize("model_of", [functional, Block])
def test_a_masking_layer_keeps_working_beside_a_residual(model_of, padded):
    x, residual, kernel, valid = padded
    layer = ECA()
    model = model_of(layer)
    model([x, residual])
    layer.kernel.assign(kernel)
    y = model([x, residual])
    expected = oracle(x, kernel, mask=valid, residual=residual)
    np.testing.assert_allclose(numpy(y), expected, **ROUNDING)
    np.testing.assert_allclose(model.predict([x, residual], verbose=0), expected, **ROUNDING)
    assert not np.allclose(expected, oracle(x, kernel, residual=residual), atol=1e-3)  # the mask matters
    np.testing.assert_array_equal(ops.convert_to_numpy(get_keras_mask(y)), valid)  # that of x is passed on


def test_a_sequential_model_around_the_layer_has_its_mask(padded):
    x, _, kernel, valid = padded
    layer = ECA()
    model = keras.Sequential([keras.Input((None, 12)), layers.Masking(), layer])
    layer.kernel.assign(kernel)
    np.testing.assert_allclose(numpy(model(x)), oracle(x, kernel, mask=valid), **ROUNDING)


def test_the_residuals_own_mask_counts_for_nothing(padded):
    x, residual, kernel, _ = padded
    layer = with_kernel(ECA(), kernel, x.shape)
    masked = layers.Masking()(x)
    y = layer(ops.convert_to_tensor(residual), residual=masked)
    np.testing.assert_allclose(numpy(y), oracle(residual, kernel, residual=numpy(masked)), **ROUNDING)
    assert get_keras_mask(y) is None


def test_a_mask_that_is_given_wins(padded):
    x, residual, kernel, valid = padded
    layer = with_kernel(ECA(), kernel, x.shape)
    y = layer(layers.Masking()(x), mask=~valid, residual=residual)
    np.testing.assert_allclose(numpy(y), oracle(x, kernel, mask=~valid, residual=residual), **ROUNDING)


@pytest.mark.slow
def test_a_functional_model_with_a_residual_goes_through_a_file(padded, tmp_path):
    x, residual, kernel, valid = padded
    layer = ECA(causal_axis=1)
    model = functional(layer)
    layer.kernel.assign(kernel)
    expected = model.predict([x, residual], verbose=0)
    np.testing.assert_allclose(expected, oracle(x, kernel, mask=valid, residual=residual, causal_axis=1), **ROUNDING)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for other in (again, clone):
        assert other.layers[-1].causal_axis == 1
        np.testing.assert_array_equal(other.predict([x, residual], verbose=0), expected)


def test_one_rounding_in_mixed_precision(rng):
    x, kernel = draw(rng, (2, 9, 7, 12))
    low = "bfloat16"
    residual = numpy(ops.cast(100 * rng.normal(size=x.shape), low))
    layer = with_kernel(ECA(dtype=f"mixed_{low}"), kernel, x.shape)
    x = numpy(ops.cast(x, low))
    y = layer(x, residual=residual)
    assert keras.backend.standardize_dtype(y.dtype) == low
    expected = oracle(x, kernel, residual=residual)
    # One rounding of the sum, and before it float32's.
    allowed = np.abs(expected) * 2**-8 * 1.01 + ROUNDING["atol"]
    assert (np.abs(numpy(y) - expected) <= allowed).all()
    twice = numpy(ops.cast(oracle(x, kernel), low)) + residual
    assert (np.abs(numpy(ops.cast(twice, low)) - expected) > allowed).any()  # a product rounded before would be seen


@pytest.mark.parametrize("symbolic", [False, True], ids=["tensor", "KerasTensor"])
@pytest.mark.parametrize(
    ("residual", "error", "match"),
    [
        (np.ones((2, 9, 1, 12), "float32"), ValueError, r"residual must be of x's shape \(2, 9, 7, 12\)"),
        (np.ones((2, 9, 7), "float32"), ValueError, r"residual must be of x's shape \(2, 9, 7, 12\)"),
        (np.ones((2, 9, 7, 12), "int32"), TypeError, "residual must be a real floating-point tensor"),
    ],
)
def test_bad_residuals_are_refused(symbolic, residual, error, match):
    x = np.ones((2, 9, 7, 12), "float32")
    if symbolic:
        x, residual = (keras.KerasTensor(a.shape, dtype=str(a.dtype)) for a in (x, residual))
    with pytest.raises(error, match=match):
        ECA()(x, residual=residual)


def test_the_function_refuses_another_dtype(rng):
    x, kernel = draw(rng)
    with pytest.raises(TypeError, match=r"residual must be of x's dtype float32\. Received: dtype float16"):
        eca(x, kernel, residual=x.astype("float16"))


def test_the_policy_casts_both():
    x = np.ones((2, 9, 7, 12), "float32")
    y = ECA(dtype="mixed_float16")(x, residual=x.astype("float64"))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"


@pytest.mark.slow
def test_training_with_a_residual_is_training_with_an_add(rng):
    """The same network, with the addition in the layer and behind it."""
    results = []
    for inside in (True, False):
        keras.utils.set_random_seed(3)
        inputs = keras.Input((8, 8, 6))
        x = layers.Conv2D(6, 3, padding="same")(inputs)
        x = ECA(3)(x, residual=inputs) if inside else layers.Add()([ECA(3)(x), inputs])
        model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        data = np.random.default_rng(4).normal(size=(16, 8, 8, 6)).astype("float32")
        target = data.mean((1, 2)) ** 2
        history = model.fit(data, target, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
        results.append([np.array(history), *model.get_weights()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2**-16)  # four steps of sums of 500 terms of order 1
