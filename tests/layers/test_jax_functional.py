"""`eca_multi.jax.eca` under JAX's transformations, judged by the float64 oracle and not by a plain run of itself."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.test_util import check_grads

from eca_multi import reference
from eca_multi.jax import eca
from eca_multi.parity.define.dtypes import quantise
from tests.support.oracle import oracle

# float64 rounds at 1e-16 and no sum here has more than 500 terms, so 1e-12 leaves room for any order of adding them up;
# a step that fell back to float32 would be off by 1e-7.
FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}


@dataclass(frozen=True)
class Case:
    name: str
    kernel: tuple[int, int, int]
    options: dict = field(default_factory=dict)


CASES = [
    Case("zeros", (5, 1, 1)),
    Case("wider than C", (15, 1, 1)),
    Case("circular", (9, 1, 1), {"padding": "circular", "gate": "2sigmoid"}),
    Case("per channel", (3, 1, 6), {"gate": "hard_sigmoid"}),
]

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def draw(rng, kernel, shape=(3, 7, 5, 6)):
    """Return x with a mean of its own in each channel, a kernel without symmetry, and a cotangent."""
    x = rng.normal(size=shape) + rng.uniform(-2, 2, shape[-1])
    return x, rng.normal(size=kernel), rng.normal(size=shape)


def canonical(weight):
    """(k, 1, 1) to (k,), and (k, 1, C) to (C, k)."""
    return weight[:, 0, 0] if weight.shape[2] == 1 else weight[:, 0].T


def native(weight):
    """(k,) to (k, 1, 1), and (C, k) to (k, 1, C)."""
    return weight[:, None, None] if weight.ndim == 1 else weight.T[:, None]


def forward(x, w, **options):
    return reference.forward(x, canonical(w), channel_axis=-1, **options)


def backward(x, w, G, **options):
    return reference.backward(x, canonical(w), G, channel_axis=-1, **options)


def vjp(function, x, w, G):
    """Return {"y", "dx", "dw"} of a function of x and the kernel."""
    y, pull = jax.vjp(function, x, w)
    dx, dw = pull(G.astype(y.dtype))
    return {"y": y, "dx": dx, "dw": dw}


jitted_vjp = jax.jit(vjp, static_argnums=0)


def assert_within_budget(got, dtype, x, w, G, mask=None, **options):
    """Judge the given ones of y, dx and dw by the parity run's error budget, on the values that `dtype` can hold."""
    arrays = {"x": np.moveaxis(x, -1, 1), "weight": canonical(w), "cotangent": np.moveaxis(G, -1, 1)}
    arrays = {name: quantise(array, dtype) for name, array in arrays.items()}
    expected = oracle({**arrays, "mask": mask} if mask is not None else arrays, options, dtype)
    for name, array in got.items():
        assert array.dtype == dtype, name
        value, budget = expected[name]
        array = np.asarray(array, np.float64)
        array = canonical(array) if name == "dw" else np.moveaxis(array, -1, 1)
        assert (np.abs(array - value) <= budget).all(), name


# --- transformations ---------------------------------------------------------------------------------------------

TRANSFORMS = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "vmap": lambda f: lambda x, w: jax.vmap(lambda a: f(a[None], w)[0])(x),
    "vmap of checkpoint": lambda f: lambda x, w: jax.vmap(jax.checkpoint(f), (0, None))(x[:, None], w)[:, 0],
    "map": lambda f: lambda x, w: lax.map(lambda a: f(a[None], w)[0], x),
}


@each_case
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_value_and_gradients_hold_under_a_transformation(transform, case, rng):
    x, w, G = draw(rng, case.kernel)
    function = transform(lambda x, w: eca(x, w, **case.options))
    got = jitted_vjp(function, *(jnp.asarray(a, "float32") for a in (x, w, G)))
    assert_within_budget(got, "float32", x, w, G, **case.options)


@pytest.mark.slow
def test_the_budget_refuses_a_flipped_kernel(rng):
    x, w, G = draw(rng, (3, 1, 1))
    got = vjp(lambda x, w: eca(x, w[::-1]), *(jnp.asarray(a, "float32") for a in (x, w, G)))
    with pytest.raises(AssertionError, match="y"):
        assert_within_budget(got, "float32", x, w, G)


@each_case
def test_jvp_is_the_transpose_of_the_oracles_gradient(case, rng):
    x, w, G = draw(rng, case.kernel)
    x_dot, w_dot, _ = draw(rng, case.kernel)
    with jax.enable_x64(True):
        y, y_dot = jax.jit(lambda *a: jax.jvp(lambda x, w: eca(x, w, **case.options), a[:2], a[2:]))(x, w, x_dot, w_dot)
    expected = backward(x, w, G, **case.options)
    np.testing.assert_allclose(y, forward(x, w, **case.options).y, **FLOAT64)
    inner = (expected.dx * x_dot).sum() + (native(expected.dw) * w_dot).sum()
    np.testing.assert_allclose((G * np.asarray(y_dot)).sum(), inner, **FLOAT64)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_check_grads_to_second_order(padding, rng):
    x, w, _ = draw(rng, (5, 1, 1), (2, 2, 3, 5))
    with jax.enable_x64(True):
        check_grads(jax.jit(lambda x, w: eca(x, w, padding=padding)), (x, w), order=2)


def test_hessian_is_the_slope_of_the_oracles_gradient(rng):
    x, w, G = draw(rng, (5, 1, 1))

    def loss(w):
        return (G * eca(x, w)).sum()

    with jax.enable_x64(True):
        hessian, reverse = jax.jit(lambda w: (jax.hessian(loss)(w), jax.jacrev(jax.jacrev(loss))(w)))(w[:, 0, 0])
    step = 1e-5
    slopes = [
        (backward(x, w + step * e, G).dw - backward(x, w - step * e, G).dw) / (2 * step)
        for e in np.eye(5)[:, :, None, None]
    ]
    # Central differences: step**2 of truncation and 1e-16/step of rounding, both near 1e-10 of the largest entry.
    np.testing.assert_allclose(hessian, slopes, rtol=0, atol=1e-8 * np.abs(hessian).max())
    np.testing.assert_allclose(hessian, reverse, **FLOAT64)


@pytest.mark.parametrize("body", [eca, jax.checkpoint(eca)], ids=["plain", "checkpoint"])
def test_scan_over_layers(body, rng):
    x, _, G = draw(rng, (5, 1, 1))
    weights = rng.normal(size=(4, 5, 1, 1))

    def scanned(x, weights):
        return lax.scan(lambda x, w: (body(x, w), None), x, weights)[0]

    with jax.enable_x64(True):
        got = jitted_vjp(scanned, jnp.asarray(x), jnp.asarray(weights), G)
    inputs = [x]
    for w in weights:
        inputs.append(forward(inputs[-1], w).y)
    dx, dw = G, []
    for x_in, w in zip(inputs[-2::-1], weights[::-1], strict=True):
        grads = backward(x_in, w, dx)
        dx, dw = grads.dx, [native(grads.dw), *dw]
    np.testing.assert_allclose(got["y"], inputs[-1], **FLOAT64)
    np.testing.assert_allclose(got["dx"], dx, **FLOAT64)
    np.testing.assert_allclose(got["dw"], dw, **FLOAT64)


def test_vmap_over_kernels_and_masks(rng):
    x, _, _ = draw(rng, (3, 1, 1))
    weights, masks = rng.normal(size=(4, 3, 1, 1)), rng.uniform(size=(4, 3, 7, 5)) < 0.6
    with jax.enable_x64(True):
        y = jax.vmap(lambda w, mask: eca(x, w, mask=mask))(weights, masks)
    expected = [forward(x, w, mask=mask).y for w, mask in zip(weights, masks, strict=True)]
    np.testing.assert_allclose(y, expected, **FLOAT64)


def test_mask_under_jit_with_a_sample_that_has_no_valid_position(rng):
    x, w, G = draw(rng, (5, 1, 1))
    mask = rng.uniform(size=(3, 7, 5)) < 0.6
    mask[1] = False
    with jax.debug_nans(True):
        got = jitted_vjp(lambda x, w: eca(x, w, mask=mask), *(jnp.asarray(a, "float32") for a in (x, w, G)))
    assert_within_budget(got, "float32", x, w, G, mask=mask)


@pytest.mark.parametrize("axis", [-1, 1, 2, -2])
def test_channel_axis(axis, rng):
    x, w, _ = draw(rng, (5, 1, 1))
    with jax.enable_x64(True):
        y = jax.jit(lambda x, w: eca(x, w, channel_axis=axis))(np.moveaxis(x, -1, axis), w)
    np.testing.assert_allclose(np.moveaxis(y, axis, -1), forward(x, w).y, **FLOAT64)


def test_empty_batch_has_zero_kernel_gradient():
    got = vjp(jax.jit(eca), jnp.ones((0, 7, 5, 12)), jnp.ones((3, 1, 1)), jnp.ones((0, 7, 5, 12)))
    assert {name: array.shape for name, array in got.items()} == {
        "y": (0, 7, 5, 12),
        "dx": (0, 7, 5, 12),
        "dw": (3, 1, 1),
    }
    assert not got["dw"].any()


# --- shapes without values ---------------------------------------------------------------------------------------


def test_eval_shape_of_value_and_gradients():
    x, w = jax.ShapeDtypeStruct((512, 4096, 4096, 24), jnp.bfloat16), jax.ShapeDtypeStruct((5, 1, 24), jnp.float32)
    y, g = jax.eval_shape(lambda x, w: eca(x, w, return_gate=True), x, w)
    dx, dw = jax.eval_shape(jax.grad(lambda x, w: eca(x, w).sum(dtype="float32"), (0, 1)), x, w)
    assert [(a.shape, a.dtype) for a in (y, dx, dw)] == [(a.shape, a.dtype) for a in (x, x, w)]
    assert (g.shape, g.dtype) == ((512, 24), jnp.float32)


EXPORTS = {
    "zeros": ("b, h, w, 12", {}),
    "circular": ("b, h, w, 12", {"padding": "circular"}),
    "any channels": ("b, h, w, c", {}),
    "sequences": ("b, t, 12", {}),
}


@pytest.mark.parametrize(("dims", "options"), EXPORTS.values(), ids=EXPORTS.keys())
def test_export_with_symbolic_dimensions(dims, options, rng):
    shape = export.symbolic_shape(dims)
    structs = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((5, 1, 1), jnp.float32)
    stored = export.export(jax.jit(lambda x, w: eca(x, w, **options)))(*structs).serialize(vjp_order=1)
    loaded = export.deserialize(stored)
    for sizes in ((3, 7, 5), (1, 4, 9)):
        x, w, G = draw(rng, (5, 1, 1), (*sizes[: len(shape) - 1], 12))
        x32, w32, G32 = (a.astype(np.float32) for a in (x, w, G))
        dx, dw = loaded.vjp().call(x32, w32, G32)
        assert_within_budget({"y": loaded.call(x32, w32), "dx": dx, "dw": dw}, "float32", x, w, G, **options)


def test_export_with_a_mask(rng):
    shape = export.symbolic_shape("b, t")
    structs = [jax.ShapeDtypeStruct(*a) for a in (((*shape, 12), "float32"), ((3, 1, 1), "float32"), (shape, bool))]
    loaded = export.deserialize(
        export.export(jax.jit(lambda x, w, mask: eca(x, w, mask=mask)))(*structs).serialize(vjp_order=1)
    )
    x, w, G = draw(rng, (3, 1, 1), (2, 9, 12))
    mask = np.arange(9) < [[9], [4]]
    x32, w32, G32 = (a.astype(np.float32) for a in (x, w, G))
    dx, dw, _ = loaded.vjp().call(x32, w32, mask, G32)
    got = {"y": loaded.call(x32, w32, mask), "dx": dx, "dw": dw}
    assert_within_budget(got, "float32", x, w, G, mask=mask)


# --- compilation -------------------------------------------------------------------------------------------------


def test_one_trace_for_each_shape(rng):
    traced = []

    @jax.jit
    def function(x, w):
        traced.append(x.shape)
        return eca(x, w, padding="circular", gate="2sigmoid")

    for _ in range(3):
        x, w, _ = draw(rng, (3, 1, 1))
        function(x, w)
        function(jnp.asarray(x), jnp.asarray(w, jnp.float32))
    assert traced == [(3, 7, 5, 6)]
    function(x[:2], w)
    assert traced == [(3, 7, 5, 6), (2, 7, 5, 6)]


def test_a_second_plain_call_compiles_nothing(rng, caplog):
    def compiled(channels):
        x, w, _ = draw(rng, (3, 1, 1), (2, 3, 5, channels))
        caplog.clear()
        with jax.log_compiles():
            eca(x, w, padding="circular", gate="2sigmoid")
        return [record for record in caplog.records if "Compiling" in record.getMessage()]

    assert compiled(13)  # or the next line would show nothing
    assert not compiled(13)


def test_no_tracer_leaks(rng):
    x, w, _ = draw(rng, (3, 1, 1))
    with jax.checking_leaks():
        jax.jit(jax.grad(lambda w: eca(x, w).sum()))(w)


# --- dtypes ------------------------------------------------------------------------------------------------------

DTYPES = [
    ("float32", "float32", "float32"),
    ("bfloat16", "bfloat16", "float32"),
    ("float16", "float16", "float32"),
    ("bfloat16", "float32", "float32"),
    ("float16", "bfloat16", "float32"),
    ("float64", "float64", "float64"),
    ("float64", "float32", "float64"),
    ("float32", "float64", "float64"),
]


@pytest.mark.parametrize(("x", "weight", "gate"), DTYPES)
def test_dtypes(x, weight, gate):
    """y and dx have x's dtype, dw the weight's; the gate is never narrower than float32."""
    with jax.enable_x64(True):
        a, w = jax.ShapeDtypeStruct((2, 3, 5, 8), x), jax.ShapeDtypeStruct((3, 1, 1), weight)
        y, g = jax.eval_shape(lambda a, w: eca(a, w, return_gate=True), a, w)
        dx, dw = jax.eval_shape(jax.grad(lambda a, w: eca(a, w).sum(dtype="float64"), (0, 1)), a, w)
    assert [array.dtype.name for array in (y, g, dx, dw)] == [x, gate, x, weight]


def test_float64_is_computed_in_float64(rng):
    x, w, G = draw(rng, (5, 1, 1))
    with jax.enable_x64(True):
        got = jitted_vjp(eca, jnp.asarray(x), jnp.asarray(w), G)
        rounded = eca(x.astype(np.float32), w)
    expected = backward(x, w, G)
    np.testing.assert_allclose(got["y"], forward(x, w).y, **FLOAT64)
    np.testing.assert_allclose(got["dx"], expected.dx, **FLOAT64)
    np.testing.assert_allclose(got["dw"], native(expected.dw), **FLOAT64)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        np.testing.assert_allclose(rounded, forward(x, w).y, **FLOAT64)


def test_numpy_inputs(rng):
    x, w, G = draw(rng, (3, 1, 1))
    mask = rng.uniform(size=(3, 7, 5)) < 0.6
    before = x.copy(), w.copy(), mask.copy()
    y = eca(x, w, mask=mask)
    assert isinstance(y, jax.Array)
    assert_within_budget({"y": y}, "float32", x, w, G, mask=mask)  # float32, as jnp.asarray(x) is without x64
    for array, original in zip((x, w, mask), before, strict=True):
        np.testing.assert_array_equal(array, original)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_strict_dtype_promotion(dtype):
    with jax.numpy_dtype_promotion("strict"):
        y = eca(jnp.ones((2, 5, 7, 12), dtype), jnp.ones((3, 1, 1)), mask=jnp.ones((2, 5, 7), bool))
    assert y.dtype == dtype


@pytest.mark.parametrize("kernel", [(3, 1, 1), (3, 1, 12), (3,)], ids=str)
def test_no_implicit_rank_promotion(kernel):
    with jax.numpy_rank_promotion("raise"):
        assert eca(jnp.ones((2, 5, 7, 12)), jnp.ones(kernel)).shape == (2, 5, 7, 12)


# --- half precision ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_half_reductions():
    before = jax.config.jax_allow_f16_reductions
    jax.config.update("jax_allow_f16_reductions", False)
    yield
    jax.config.update("jax_allow_f16_reductions", before)


@pytest.mark.usefixtures("no_half_reductions")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
class TestWithoutHalfReductions:
    """JAX refuses to add up half-precision numbers; eca has no need to."""

    @each_case
    def test_gradients(self, case, dtype, rng):
        x, w, G = draw(rng, case.kernel)
        got = jitted_vjp(lambda x, w: eca(x, w, **case.options), *(jnp.asarray(a, dtype) for a in (x, w, G)))
        assert_within_budget(got, dtype, x, w, G, **case.options)

    def test_gradients_with_a_mask_twice(self, dtype, rng):
        x, w, _ = (jnp.asarray(a, dtype) for a in draw(rng, (3, 1, 1)))
        mask = jnp.asarray(rng.uniform(size=(3, 7, 5)) < 0.6)
        hessian = jax.jit(jax.hessian(lambda w: eca(x, w, mask=mask).sum(dtype="float32")))(w)
        assert hessian.dtype == dtype
        assert jnp.isfinite(hessian).all()

    def test_a_product_in_half_precision_is_refused(self, dtype, rng):
        x, _, G = (jnp.asarray(a, dtype) for a in draw(rng, (3, 1, 1)))
        with pytest.raises(ValueError, match="jax_allow_f16_reductions=False"):
            jax.vjp(lambda gate: x * gate[:, None, None], jnp.ones((3, 6), dtype))[1](G)


@pytest.mark.parametrize("size", [28, 56])
def test_gate_gradient_of_a_large_bfloat16_map(size, rng):
    """The sum over the map is that of x, all of one sign: a bfloat16 accumulator stops growing."""
    x = np.abs(rng.normal(size=(2, size, size, 24)))
    w, G = rng.normal(size=(3, 1, 1)), np.ones_like(x)
    x16, w16, G16 = (jnp.asarray(a, "bfloat16") for a in (x, w, G))
    true = np.asarray(x16, np.float64).sum((1, 2))

    def with_probe(probe):  # a zero beside the gate, whose gradient is the gate's
        return eca(x16, w16, gate=lambda logits: jax.nn.sigmoid(logits) + probe)

    d_gate = jax.jit(lambda probe: jax.vjp(with_probe, probe)[1](G16)[0])(jnp.zeros((2, 24)))
    # Adding n positive float32 numbers in any order is off by less than n roundings.
    assert np.abs(np.asarray(d_gate) / true - 1).max() < size**2 * 2.0**-24

    assert_within_budget(jitted_vjp(eca, x16, w16, G16), "bfloat16", x, w, G)

    (naive,) = jax.vjp(lambda gate: x16 * gate[:, None, None], jnp.zeros((2, 24), "bfloat16"))[1](G16)
    assert np.abs(np.asarray(naive, np.float64) / true - 1).max() > 0.05


def slope_of_gradient(x, w, x_dot, w_dot):
    def gradient(x, w):
        return jax.grad(lambda x, w: jnp.square(eca(x, w).astype("float32")).sum(), (0, 1))(x, w)

    return jax.jvp(gradient, (x, w), (x_dot, w_dot))[1]


BFLOAT16_DERIVATIVES = {
    "jvp": lambda x, w, x_dot, w_dot: jax.jvp(eca, (x, w), (x_dot, w_dot))[1],
    "forward over reverse": slope_of_gradient,
    "vmap of vjp": lambda x, w, G, _: jax.vmap(lambda x, G: jax.vjp(eca, x[None], w)[1](G[None]))(x, G),
}


@pytest.mark.parametrize("derivative", BFLOAT16_DERIVATIVES.values(), ids=BFLOAT16_DERIVATIVES.keys())
def test_bfloat16_has_every_derivative(derivative, rng):
    """x has rules of its own there; a few roundings of 2**-9 from float32, which the tests above judge."""
    x, w, G = draw(rng, (5, 1, 1))
    arguments = [jnp.asarray(a, "bfloat16") for a in (x, w, G, rng.normal(size=w.shape))]
    derivative = jax.jit(derivative)
    got, expected = derivative(*arguments), derivative(*(a.astype("float32") for a in arguments))
    for value, true in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert value.dtype == "bfloat16"
        assert np.abs(np.asarray(value, "float32") - true).max() < 2.0**-6 * np.abs(true).max()


# --- the shifts --------------------------------------------------------------------------------------------------

CHANNELS = 5


@pytest.mark.parametrize("offset", range(-CHANNELS, CHANNELS + 1))
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_a_kernel_with_one_tap_shifts_the_channels(offset, padding, rng):
    """Up to the widest circular kernel, 2C + 1 taps, whose ends reach the channel itself again."""
    x = jnp.asarray(rng.normal(size=(2, 1, 1, CHANNELS)), jnp.float32)
    w = jnp.zeros(2 * CHANNELS + 1).at[CHANNELS + offset].set(1.0)
    _, shifted = eca(x, w, padding=padding, gate=lambda logits: logits, return_gate=True)
    expected = jnp.roll(x[:, 0, 0], -offset, axis=1)
    if padding == "zeros":
        source = np.arange(CHANNELS) + offset
        expected = jnp.where((source >= 0) & (source < CHANNELS), expected, 0)
    np.testing.assert_array_equal(shifted, expected)
