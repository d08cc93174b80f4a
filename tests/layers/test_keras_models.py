"""The Keras layer in models: training, files, clones, and each backend's compiler."""

import keras
import numpy as np
import pytest
from keras import layers

from eca_multi import reference
from eca_multi.keras import ECA
from tests.support.layers_keras import ROUNDING, canonical, draw, numpy, oracle, through_json, with_kernel

pytestmark = pytest.mark.keras
BACKEND = keras.backend.backend()


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
