"""What XLA makes of eca on the CPU: how many feature maps the compiled program reads and writes, and what it repeats.

Forward x is read for the means, and read and y written for the product; backward dy and x are read for the gate's
gradient, and dy read and dx written. No less will do, and nothing else of that size may be moved.
"""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import keras
import pytest
from keras import ops

import eca_multi.keras
from eca_multi.jax import eca, functional
from eca_multi.jax.functional import _convolve

pytestmark = pytest.mark.usefixtures("optimised")

SHAPE = (2, 56, 56, 64)
FLOOR = {"forward": 3, "gradient": 7}
SMALL = 0.1  # of a map: means, gate, kernel and their gradients, all of them (N, C) or less

each_pass = pytest.mark.parametrize("which", FLOOR)
each_padding = pytest.mark.parametrize("padding", ["zeros", "circular"])
each_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def on(backend):
    """For Keras on one backend."""
    marks = pytest.mark.keras, pytest.mark.skipif(keras.backend.backend() != backend, reason=f"compiled by {backend}")
    return lambda test: marks[0](marks[1](test))


on_jax, on_tensorflow = on("jax"), on("tensorflow")


def compiled(function, which, dtype, **options):
    def gradient(x, w, dy, **options):
        y, pull = jax.vjp(partial(function, **options), x, w)
        return y, *pull(dy)

    x, w = jax.ShapeDtypeStruct(SHAPE, dtype), jax.ShapeDtypeStruct((3, 1, 1), dtype)
    traced = jax.jit(function).lower(x, w) if which == "forward" else jax.jit(gradient).lower(x, w, x, **options)
    return traced.compile()


def maps(program, dtype):
    """The bytes that a program accesses, by XLA's own count, in sizes of x."""
    return program.cost_analysis()["bytes accessed"] / (math.prod(SHAPE) * jnp.dtype(dtype).itemsize)


def loops_that_shift(hlo):
    """The fused loops over a whole map that shift the channels anew at each position."""
    shape = ",".join(map(str, SHAPE))
    loops = re.findall(rf"^%(\S+) \([^\n]*-> \w+\[{shape}\] {{\n(.*?)^}}", hlo, re.MULTILINE | re.DOTALL)
    assert loops
    return [name for name, body in loops if " pad(" in body]


def as_first_written(x, w):
    wide = x.astype(jnp.float32)
    g = jax.nn.sigmoid(_convolve(wide.mean((1, 2)), w.astype(jnp.float32), "zeros", None))
    return (wide * g[:, None, None]).astype(x.dtype)


def check_floor(function, which, dtype):
    program = compiled(function, which, dtype)
    assert FLOOR[which] <= maps(program, dtype) <= FLOOR[which] + SMALL
    assert not loops_that_shift(program.as_text())


@each_padding
@each_dtype
@each_pass
def test_at_the_floor(which, dtype, padding):
    check_floor(partial(eca, padding=padding), which, dtype)


@on_jax
@each_dtype
@each_pass
def test_keras_is_at_the_floor(which, dtype):
    check_floor(eca_multi.keras.eca, which, dtype)


@pytest.mark.slow
@on_tensorflow
def test_keras_on_tensorflow_shifts_once(monkeypatch):
    import tensorflow as tf

    def gradient_compiled():
        @tf.function(jit_compile=True)
        def gradient(x, w, dy):
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = eca_multi.keras.eca(x, w)
            return tape.gradient(y, [x, w], dy)

        x, w = tf.zeros(SHAPE), tf.zeros((3, 1, 1))
        return gradient.experimental_get_compiler_ir(x, w, x)(stage="optimized_hlo")

    assert not loops_that_shift(gradient_compiled())
    monkeypatch.setattr(eca_multi.keras.functional, "_convolve", of_one_copy)
    assert loops_that_shift(gradient_compiled())


def of_one_copy(pooled, w, padding, several):
    k, channels = w.shape[0], pooled.shape[1]
    padded = ops.pad(pooled, ((0, 0), (k // 2, k // 2)))
    return sum(padded[:, j : j + channels] * w[j] for j in range(k))


# --- the end of a residual block --------------------------------------------------------------------------------


def with_residual(function, dtype, differentiated):
    """Compile a function of (x, w, residual), or it and its gradient by x and w; the residual's is dy itself."""

    def gradient(x, w, residual, dy):
        y, pull = jax.vjp(lambda x, w: function(x, w, residual), x, w)
        return y, *pull(dy)

    x, w = jax.ShapeDtypeStruct(SHAPE, dtype), jax.ShapeDtypeStruct((3, 1, 1), dtype)
    return (jax.jit(gradient).lower(x, w, x, x) if differentiated else jax.jit(function).lower(x, w, x)).compile()


def check_one_pass(function, dtype, which):
    """One map more is read, the residual, and none is written but y (and dx)."""
    floor, differentiated = FLOOR[which] + 1, which == "gradient"
    program = with_residual(lambda x, w, residual: function(x, w, residual=residual), dtype, differentiated)
    assert floor <= maps(program, dtype) <= floor + SMALL
    assert not loops_that_shift(program.as_text())
    apart = compiled(function, which, dtype)
    added = jax.jit(jnp.add).lower(*[jax.ShapeDtypeStruct(SHAPE, dtype)] * 2).compile()
    assert maps(apart, dtype) + maps(added, dtype) >= floor + 2  # the control: a program of its own adds


@each_dtype
@each_pass
def test_a_residual_is_added_in_the_same_pass(which, dtype):
    check_one_pass(eca, dtype, which)


@on_jax
@each_dtype
@each_pass
def test_keras_adds_a_residual_in_the_same_pass(which, dtype):
    check_one_pass(eca_multi.keras.eca, dtype, which)


MASKED = {"float32": 11, "bfloat16": 15}


def check_masked(function, dtype):
    """It moves more, for what is summed, x or 0, XLA:CPU writes to memory, in float32; but it shifts as seldom.

    That is so twice: for the means, and for the gradient of the gate, which is to see no NaN in the padding.
    """
    mask = jax.ShapeDtypeStruct(SHAPE[:3], bool)
    program = compiled(function, "gradient", dtype, mask=mask)
    assert maps(program, dtype) <= MASKED[dtype] + 2 * SMALL
    assert not loops_that_shift(program.as_text())


@each_dtype
def test_masked(dtype):
    check_masked(eca, dtype)


@on_jax
@each_dtype
def test_keras_masked(dtype):
    check_masked(eca_multi.keras.eca, dtype)


# --- controls: should XLA do better by itself, eca can be written so -------------------------------------------------


@each_pass
def test_a_widened_map_is_seen(which):
    """bfloat16 widened once for both uses is written to memory, and read, in float32."""
    assert maps(compiled(as_first_written, which, "bfloat16"), "bfloat16") > FLOOR[which] + 3


def test_shifts_at_every_position_are_seen():
    assert loops_that_shift(compiled(as_first_written, "gradient", "float32").as_text())


def test_a_product_chosen_among_two_is_seen(monkeypatch):
    """The derivative of the masked product is given by hand: that of a choice moves many more."""

    def chosen(x, wide, g, valid, residual):
        counts = valid | jnp.isfinite(x)
        y = jnp.where(counts, jnp.where(counts, wide, 0) * g, wide * jax.lax.stop_gradient(g))
        return y.astype(x.dtype)

    monkeypatch.setattr(functional, "masked_product", chosen)
    mask = jax.ShapeDtypeStruct(SHAPE[:3], bool)
    assert maps(compiled(eca, "gradient", "float32", mask=mask), "float32") > MASKED["float32"] + 3


def test_float16_cannot_be():
    """XLA:CPU writes even the operand of a bare sum, widened, to memory."""
    x = jax.ShapeDtypeStruct(SHAPE, "float16")
    bare = jax.jit(lambda x: x.sum((1, 2), dtype=jnp.float32)).lower(x).compile()
    assert maps(bare, "float16") > 4
