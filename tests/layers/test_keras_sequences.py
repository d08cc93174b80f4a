"""The Keras layer over time and over frames: causal_axis and pool_axes on the backend of the process.

That the values are the oracle's is in test_layers.py for every framework; here is what Keras does to such a layer:
unknown extents, its own masks, models of sequences and of video that are trained, saved and exported.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from eca_multi import reference
from eca_multi.keras import ECA, eca
from tests.support.layers_keras import ROUNDING, canonical, draw, numpy, oracle, with_kernel

pytestmark = pytest.mark.keras
BACKEND = keras.backend.backend()

# Every way to choose the axes of (N, T, H, W, C), and what the gate's axes behind (N, C) are.
CHOICES = {
    "causal": {"causal_axis": 1},
    "frames": {"pool_axes": (2, 3)},
    "causal over time alone": {"pool_axes": 1, "causal_axis": 1},
    "causal, its rows apart": {"pool_axes": (1, -2), "causal_axis": -4},
}
EACH = [
    pytest.param(options, id=name, marks=[] if name == "causal, its rows apart" else pytest.mark.slow)
    for name, options in CHOICES.items()
]
SHAPE = (2, 6, 5, 4, 12)


def gradients(loss, *arrays):
    """The gradients of a function of tensors, on any backend."""
    if BACKEND == "jax":
        import jax

        return [np.asarray(g) for g in jax.jit(jax.grad(loss, tuple(range(len(arrays)))))(*arrays)]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(a) for a in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = tf.function(loss)(*tensors)
        return [g.numpy() for g in tape.gradient(value, tensors)]
    import torch

    tensors = [torch.from_numpy(a).requires_grad_() for a in arrays]
    loss(*tensors).backward()
    return [t.grad.numpy() for t in tensors]


# --- the formula, its gradient, and padding that is not finite -----------------------------------------------------


@pytest.mark.parametrize("options", EACH)
@pytest.mark.parametrize("data_format", ["channels_last", pytest.param("channels_first", marks=pytest.mark.slow)])
def test_values_and_gradients_are_the_oracles(options, data_format, rng):
    axis = -1 if data_format == "channels_last" else 1
    x, kernel = draw(rng, SHAPE)
    residual, dy = (rng.normal(size=SHAPE).astype("float32") for _ in range(2))
    mask = rng.random(SHAPE[:-1]) < 0.6
    mask[0, 0] = False  # no position counts so far
    bad = ~mask[..., None] & (rng.random(SHAPE) < 0.2)
    x[bad] = np.inf
    finite = ~bad
    settings = {"channel_axis": -1, "mask": mask, **options}
    expected = reference.forward(x, canonical(kernel), residual=residual, **settings)
    grads = reference.backward(x, canonical(kernel), np.where(finite, dy, 0), **settings)

    if axis == 1:  # the same axes, one further back
        x, residual, dy, finite = (np.moveaxis(a, -1, 1).copy() for a in (x, residual, dy, finite))
        pool = options.get("pool_axes")
        pool = pool if pool is None else tuple(i % 5 + 1 for i in np.atleast_1d(pool))
        options = {
            "pool_axes": pool,
            "causal_axis": options["causal_axis"] % 5 + 1 if "causal_axis" in options else None,
        }

    def call(x, kernel, residual):
        return eca(x, kernel, channel_axis=axis, mask=mask, residual=residual, return_gate=True, **options)

    def loss(x, kernel, residual):
        y, _ = call(x, kernel, residual)
        return ops.sum(ops.where(finite, y * ops.convert_to_tensor(dy), ops.zeros((), "float32")))

    y, gate = call(x, kernel, residual)
    dx, dw, dr = gradients(loss, x, kernel, residual)
    if axis == 1:
        y, dx = ops.moveaxis(y, 1, -1), np.moveaxis(dx, 1, -1)
    np.testing.assert_allclose(numpy(gate), expected.gate, **ROUNDING)
    np.testing.assert_allclose(numpy(y), expected.y, **ROUNDING)
    np.testing.assert_allclose(dx, grads.dx, **ROUNDING)
    # dw adds products of up to 8, as many as there are values, and each rounds at 2**-24 of its size.
    np.testing.assert_allclose(dw[:, 0, 0], grads.dw, rtol=0, atol=x.size * 8 * 2**-24)
    np.testing.assert_array_equal(dr, np.where(finite, dy, 0))
    without = reference.forward(np.where(bad, 0, np.moveaxis(x, 1, -1) if axis == 1 else x), canonical(kernel))
    assert np.abs(without.gate.mean() - expected.gate.mean()) > 1e-3  # other axes are other gates


def test_a_million_steps_stay_exact(rng):
    """A plain float32 sum along time would be off by a hundred times as much."""
    steps = 10**6
    x = (1 + rng.uniform(0, 2**-6, (1, steps, 1))).astype("float32")
    # k = 1, w = 1 and the identity as the gate: y / x is the running mean.
    _, means = eca(x, np.ones((1, 1, 1), "float32"), gate=lambda z: z, causal_axis=1, return_gate=True)
    exact = x.astype(np.float64)[0, :, 0].cumsum() / np.arange(1, steps + 1)
    found = numpy(means)[0, 0]
    # Pairwise sums of n round log2(n) times; the quotient and the sum's own rounding twice more.
    assert np.abs(found / exact - 1).max() <= 22 * 2**-24
    naive = x[0, :, 0].cumsum(dtype=np.float32) / np.arange(1, steps + 1)
    assert np.abs(naive / exact - 1).max() > 22 * 2**-24


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_adds_in_float32(dtype, rng):
    x = rng.uniform(50, 100, (1, 3000, 4)).astype("float32")  # float16 ends at 65504
    layer = with_kernel(
        ECA(1, causal_axis=1, dtype=f"mixed_{dtype}", gate="hard_sigmoid"), np.full((1, 1, 1), 0.01), x.shape
    )
    x = numpy(ops.cast(x, dtype))
    roundoff = {"float16": 2**-11, "bfloat16": 2**-8}[dtype]
    expected = oracle(x, numpy(layer.kernel), gate="hard_sigmoid", causal_axis=1)
    np.testing.assert_allclose(numpy(layer(x)), expected, rtol=1.01 * roundoff, atol=0)


# --- unknown extents, symbolic tensors, bad axes --------------------------------------------------------------------


@pytest.mark.parametrize("options", EACH)
def test_a_model_of_unknown_extents(options, rng):
    inputs = keras.Input((None, None, None, 12))
    layer = ECA(3, **options)
    outputs = layer(inputs)
    assert outputs.shape == (None, None, None, None, 12)
    model = keras.Model(inputs, outputs)
    for shape in (SHAPE, (3, 7, 2, 3, 12)):
        x, kernel = draw(rng, shape)
        layer.kernel.assign(kernel)
        np.testing.assert_allclose(model.predict(x, verbose=0), oracle(x, kernel, **options), **ROUNDING)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", EACH)
def test_the_function_takes_symbolic_tensors(options, masked, rng):
    x, kernel = draw(rng, SHAPE)
    mask = rng.random(SHAPE[:-1]) < 0.6
    symbols = [keras.KerasTensor((None, None, None, None, 12)), keras.KerasTensor((None,) * 4, dtype="bool")]
    symbols = symbols[: 1 + masked]
    y = eca(symbols[0], ops.convert_to_tensor(kernel), mask=symbols[1] if masked else None, **options)
    assert y.shape == symbols[0].shape
    found = keras.Function(symbols, y)([x, mask][: 1 + masked])
    np.testing.assert_allclose(numpy(found), oracle(x, kernel, mask=mask if masked else None, **options), **ROUNDING)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pool_axes": (1, 1)}, "pool_axes must be different axes"),
        ({"pool_axes": 3}, "pool_axes must be other axes than the channel axis 3"),
        ({"causal_axis": 0}, "causal_axis must be another axis than the batch axis 0"),
        ({"causal_axis": 1, "pool_axes": 2}, "causal_axis must be one of the pooled axes"),
    ],
)
def test_bad_axes_are_found_when_the_layer_is_built(options, match):
    with pytest.raises(ValueError, match=match):
        ECA(**options).build((None, 9, 7, 12))
    with pytest.raises(ValueError, match=match):
        ECA(**options)(keras.Input((9, 7, 12)))


# --- Keras's own masks ----------------------------------------------------------------------------------------------

TOKENS = np.array([[3, 1, 4, 0, 0], [0, 7, 0, 1, 8], [0, 0, 0, 0, 0]])  # 0 is padding; the last row has nothing else


def test_an_embeddings_mask_bounds_the_running_mean(rng):
    _, kernel = draw(rng)
    layer = with_kernel(ECA(causal_axis=1), kernel, (None, 5, 12))
    x = layers.Embedding(9, 12, mask_zero=True)(TOKENS)
    expected = oracle(numpy(x), kernel, mask=TOKENS != 0, causal_axis=1)
    np.testing.assert_allclose(numpy(layer(x)), expected, **ROUNDING)
    assert not np.allclose(expected, oracle(numpy(x), kernel, causal_axis=1), atol=1e-4)  # the mask matters


def test_a_masking_layer_before_video_bounds_the_running_mean(rng):
    x, kernel = draw(rng, SHAPE)
    x[0, 4:] = x[1, 1:3] = 0
    layer = ECA(causal_axis=1)
    inputs = keras.Input(SHAPE[1:])
    mask = keras.KerasTensor((None, SHAPE[1]), dtype="bool")
    outputs = layer(inputs, mask=mask)
    layer.kernel.assign(kernel)
    valid = (x != 0).any((2, 3, 4))
    found = keras.Function([inputs, mask], outputs)([x, valid])
    expected = oracle(x, kernel, mask=valid[:, :, None, None], causal_axis=1)
    np.testing.assert_allclose(numpy(found), expected, **ROUNDING)
