"""`pool_axes`, `causal_axis` and `residual` of jax's `eca` under JAX's transformations, judged by the oracle."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from eca_multi import reference
from eca_multi.jax import eca
from eca_multi.parity.define.dtypes import quantise
from tests.support.oracle import oracle

# float64 rounds at 1e-16 and no sum here has more than 500 terms; a step in float32 would be off by 1e-7.
FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}
SHAPE = (3, 6, 7, 5)  # channels first here, as in the oracle; eca has them last
CASES = {
    "kept": {"pool_axes": (3,)},
    "causal": {"causal_axis": 2},
    "causal, the last": {"causal_axis": -1},
    "causal and kept": {"pool_axes": (2,), "causal_axis": 2},
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
masked = pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])


def draw(rng, shape=SHAPE, kernel=(5,)):
    """Return x with a mean of its own in each channel, a kernel without symmetry, a cotangent, a residual, a mask."""
    x = rng.normal(size=shape) + rng.uniform(-2, 2, (shape[1], *(1,) * (len(shape) - 2)))
    mask = rng.uniform(size=(shape[0], *shape[2:])) < 0.6
    mask[1:2] = False
    return x, rng.normal(size=kernel), rng.normal(size=shape), rng.normal(size=shape), mask


def last(array):
    return np.moveaxis(array, 1, -1)


def in_last(options):
    """The options for channels last: an axis behind the channels moves by one, counted from either end."""
    return {name: jax.tree.map(lambda axis: axis - 1, value) for name, value in options.items()}


def vjp(x, w, G, residual=None, mask=None, function=eca, **options):
    """Return {"y", "dx", "dw", "d_residual"} for channels last."""
    if residual is None:
        y, pull = jax.vjp(lambda x, w: function(x, w, mask=mask, **options), x, w)
        return {"y": y, **dict(zip(("dx", "dw"), pull(G), strict=True))}
    y, pull = jax.vjp(lambda x, w, r: function(x, w, mask=mask, residual=r, **options), x, w, residual)
    return {"y": y, **dict(zip(("dx", "dw", "d_residual"), pull(G), strict=True))}


def assert_right(got, x, w, G, residual=None, **options):
    expected = reference.backward(x, w, G, **options)
    np.testing.assert_allclose(got["y"], last(reference.forward(x, w, residual=residual, **options).y), **FLOAT64)
    np.testing.assert_allclose(got["dx"], last(expected.dx), **FLOAT64)
    np.testing.assert_allclose(got["dw"], expected.dw, **FLOAT64)
    if residual is not None:
        np.testing.assert_array_equal(got["d_residual"], last(G))


TRANSFORMS = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "vmap": lambda f: lambda x, w, r, mask: jax.vmap(lambda a, r, m: f(a[None], w, r[None], m[None])[0])(x, r, mask),
    "map": lambda f: lambda x, w, r, mask: lax.map(lambda a: f(a[0][None], w, a[1][None], a[2][None])[0], (x, r, mask)),
}


QUICK = {
    ("jit", "causal", False),
    ("checkpoint", "kept", True),
    ("vmap", "causal and kept", True),
    ("map", "kept", False),
}


def transformed_cases():
    """Every transformation of every case, masked or not; each transformation once by default."""
    for transform, case, masked in product(TRANSFORMS, CASES, (False, True)):
        marks = [] if (transform, case, masked) in QUICK else [pytest.mark.slow]
        id = f"{transform}, {case}, {'masked' if masked else 'plain'}"
        yield pytest.param(TRANSFORMS[transform], CASES[case], masked, id=id, marks=marks)


@pytest.mark.parametrize(("transform", "case", "masked"), list(transformed_cases()))
def test_value_and_gradients_hold_under_a_transformation(transform, case, masked, rng):
    x, w, G, residual, mask = draw(rng)

    def called(x, w, r, mask):
        return eca(x, w, mask=mask if masked else None, residual=r, **in_last(case))

    def function(x, w, mask, residual):
        return transform(called)(x, w, residual, mask)

    with jax.enable_x64(True):
        got = jax.jit(lambda x, w, G, r: vjp(x, w, G, r, mask, function))(last(x), w, last(G), last(residual))
    assert_right(got, x, w, G, residual, mask=mask if masked else None, **case)


@each_case
def test_the_gate_has_the_kept_axes(case, rng):
    x, w, *_ = draw(rng)
    with jax.enable_x64(True):
        _, gate = jax.jit(lambda x, w: eca(x, w, return_gate=True, **in_last(case)))(last(x), w)
    np.testing.assert_allclose(gate, reference.forward(x, w, **case).gate, **FLOAT64)


@pytest.mark.parametrize("case", [CASES["causal"], pytest.param(CASES["causal and kept"], marks=pytest.mark.slow)])
def test_forward_mode_and_a_second_derivative(case, rng):
    x, w, G, residual, _ = draw(rng, (2, 5, 3, 4))
    x_dot, w_dot, *_ = draw(rng, (2, 5, 3, 4))

    def gradient(x, w):
        _, pull = jax.vjp(lambda x, w: eca(x, w, residual=last(residual), **in_last(case)), x, w)
        return pull(last(G))

    with jax.enable_x64(True):
        got = jax.jit(lambda *a: jax.jvp(gradient, a[:2], a[2:]))(last(x), w, last(x_dot), w_dot)[1]
    step = 1e-5
    there, back = (reference.backward(x + s * x_dot, w + s * w_dot, G, **case) for s in (step, -step))
    slopes = last(there.dx - back.dx) / (2 * step), (there.dw - back.dw) / (2 * step)
    for ours, slope in zip(got, slopes, strict=True):
        # Central differences: step**2 of truncation and 1e-16/step of rounding, near 1e-10 of the largest entry.
        np.testing.assert_allclose(ours, slope, rtol=0, atol=1e-8 * np.abs(slope).max())


def test_scan_over_layers(rng):
    x, _, G, *_ = draw(rng)
    weights = rng.normal(size=(3, 5))

    def scanned(x, weights, mask):
        return lax.scan(lambda x, w: (eca(x, w, causal_axis=1, residual=x), None), x, weights)[0]

    with jax.enable_x64(True):
        got = vjp(last(x), jnp.asarray(weights), last(G), function=scanned)
    inputs, dw, dx = [x], [], G
    for w in weights:
        inputs.append(reference.forward(inputs[-1], w, causal_axis=2, residual=inputs[-1]).y)
    for x_in, w in zip(inputs[-2::-1], weights[::-1], strict=True):
        grads = reference.backward(x_in, w, dx, causal_axis=2)
        dx, dw = grads.dx + dx, [grads.dw, *dw]
    np.testing.assert_allclose(got["y"], last(inputs[-1]), **FLOAT64)
    np.testing.assert_allclose(got["dx"], last(dx), **FLOAT64)
    np.testing.assert_allclose(got["dw"], dw, **FLOAT64)


# --- numbers -----------------------------------------------------------------------------------------------------


def assert_within_budget(got, dtype, x, w, G, **options):
    """Judge y, dx and dw by the parity run's error budget, on the values that `dtype` can hold."""
    inputs = {name: options.pop(name) for name in ("mask",) if options.get(name) is not None}
    arrays = {name: quantise(array, dtype) for name, array in {"x": x, "weight": w, "cotangent": G}.items()}
    for name, (value, budget) in oracle({**arrays, **inputs}, options, dtype).items():
        array = np.asarray(got[name], np.float64)
        error = np.abs((array if name == "dw" else np.moveaxis(array, -1, 1)) - value)
        assert (error <= budget).all(), f"{name} is off by {(error / budget).max()} budgets"


@pytest.mark.slow
@each_case
@masked
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_is_within_budget(dtype, masked, case, rng):
    x, w, G, _, mask = draw(rng, (2, 6, 40, 9))
    mask = mask if masked else None
    arrays = (jnp.asarray(a, dtype) for a in (last(x), w, last(G)))
    got = jax.jit(lambda *arrays: vjp(*arrays, mask=mask, **in_last(case)))(*arrays)
    assert {array.dtype for array in got.values()} == {jnp.dtype(dtype)}
    assert_within_budget(got, dtype, x, w, G, mask=mask, **case)


def of_one_sign(rng, steps, shape=(1, 2)):
    """Return x, a kernel and a cotangent whose sums all grow, the worst for a running sum in the order of time."""
    return rng.uniform(0.5, 1.5, (*shape, steps)), np.array([0.5, -0.25, 0.125]), rng.uniform(0.5, 1.5, (*shape, steps))


STEPS = 1_000_000
FEW = 64  # additions, whatever the number of steps


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_million_steps_are_within_budget(dtype, rng):
    x, w, G = of_one_sign(rng, STEPS)
    got = jax.jit(lambda x, w, G: vjp(x, w, G, causal_axis=1))(*(jnp.asarray(a, dtype) for a in (last(x), w, last(G))))
    assert_within_budget(got, dtype, x, w, G, causal_axis=2)


@pytest.mark.usefixtures("optimised")
def test_a_running_mean_of_a_million_steps(rng):
    x = of_one_sign(rng, STEPS)[0].astype(np.float32)
    means = jax.jit(lambda a: eca(a, jnp.ones(1), causal_axis=2, channel_axis=1, gate=lambda z: z, return_gate=True)[1])
    exact = np.cumsum(x, -1, np.float64) / np.arange(1, STEPS + 1)
    assert np.abs(np.asarray(means(x), np.float64) / exact - 1).max() < FEW * 2.0**-24


def test_a_plain_running_sum_drifts(rng):
    """The control: one float32 accumulator over a million steps loses five digits more."""
    x = of_one_sign(rng, STEPS, (1, 1))[0].astype(np.float32)
    drift = np.abs(np.cumsum(x, -1, np.float32).astype(np.float64) / np.cumsum(x, -1, np.float64) - 1).max()
    assert drift > 4 * FEW * 2.0**-24


def test_the_gates_gradient_of_a_large_bfloat16_frame_is_summed_in_float32(rng):
    x, w, G, *_ = draw(rng, (1, 4, 3, 3000), (3,))
    x, G = np.abs(x), np.abs(G)
    for case in ({"pool_axes": (3,)}, {"causal_axis": 2}):
        got = vjp(*(jnp.asarray(a, "bfloat16") for a in (last(x), w, last(G))), **in_last(case))
        assert_within_budget(got, "bfloat16", x, w, G, **case)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@masked
def test_the_sum_with_the_residual_is_rounded_once(dtype, masked, rng):
    x, w, _, residual, mask = draw(rng)
    x, residual = (jnp.asarray(last(a), dtype) for a in (x, residual))
    options = {"mask": mask if masked else None, "residual": residual}
    y, gate = eca(x, jnp.asarray(w, "float32"), return_gate=True, **options)
    exact = np.asarray(x, np.float64) * np.asarray(gate, np.float64)[:, None, None] + np.asarray(residual, np.float64)
    # Half an ulp of y, and for float32, whose product XLA may round first, that of the product.
    ulp = float(jnp.finfo(dtype).eps) / 2 * np.abs(exact) + 2.0**-23 * np.abs(np.asarray(x, np.float64))
    assert y.dtype == dtype
    assert (np.abs(np.asarray(y, np.float64) - exact) <= ulp).all()
    if dtype != "float32":  # the control: a sum of the rounded product is off by more
        twice = eca(x, jnp.asarray(w, "float32"), mask=options["mask"]) + residual
        assert (np.abs(np.asarray(twice, np.float64) - exact) > ulp).any()


# --- what must not be seen ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "masked"), [(np.nan, False), (np.inf, True)])
def test_nothing_of_the_future_is_seen(bad, masked, rng):
    """Not even NaN: a matrix of zeros and ones would multiply it by 0."""
    x, w, _, _, mask = draw(rng, (3, 6, 70))
    x, mask = last(x), mask if masked else None
    later = x.copy()
    later[:, 41:] = bad
    before, after = (jax.jit(lambda x: eca(x, w, causal_axis=1, mask=mask))(a) for a in (x, later))
    np.testing.assert_array_equal(before[:, :41], after[:, :41])
    plain = [np.asarray(eca(a, w, mask=mask))[0, :41] for a in (x, later)]
    assert not np.array_equal(*plain)  # the control


@pytest.mark.parametrize("case", [CASES["causal"], pytest.param(CASES["kept"], marks=pytest.mark.slow)])
def test_bad_padding_reaches_neither_means_nor_gradients(case, rng):
    x, w, G, residual, mask = draw(rng)
    counts = last(np.broadcast_to(mask[:, None], SHAPE))
    arrays = (np.where(counts, last(x), 0), w, np.where(counts, last(G), 0), last(residual))
    clean, bad = arrays, (np.where(counts, last(x), np.nan), *arrays[1:])
    called = jax.jit(lambda *arrays: vjp(*arrays, mask=mask, **in_last(case)))
    one, other = (called(*map(jnp.asarray, a)) for a in (clean, bad))
    for name in ("dx", "dw", "d_residual"):
        np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(np.where(counts, one["y"], 0), np.where(counts, other["y"], 0))
    assert np.isnan(np.asarray(other["y"])[~counts]).all()


# --- shapes without values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "options"),
    [
        ("b, t, 6", {"causal_axis": 1}),
        pytest.param("b, t, h, 6", {"pool_axes": (2,)}, marks=pytest.mark.slow),
        pytest.param("b, t, h, c", {"causal_axis": 1}, marks=pytest.mark.slow),
    ],
)
def test_export_with_symbolic_dimensions(dims, options, rng):
    shape = export.symbolic_shape(dims)
    structs = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, (5,), shape))
    function = jax.jit(lambda x, w, r: eca(x, w, residual=r, **options))
    loaded = export.deserialize(export.export(function)(*structs).serialize(vjp_order=1))
    for sizes in ((3, 7, 5), (1, 40, 9)):
        x, w, _, residual, _ = draw(rng, (sizes[0], 6, *sizes[1 : len(shape) - 1]))
        arrays = [a.astype(np.float32) for a in (last(x), w, last(residual))]
        np.testing.assert_allclose(loaded.call(*arrays), eca(arrays[0], arrays[1], residual=arrays[2], **options), 1e-5)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("which", ["forward", pytest.param("gradient", marks=pytest.mark.slow)])
def test_memory_grows_with_the_map_alone(which):
    """Nothing of size (T, T): twice the steps take twice the memory."""

    def needed(steps):
        x, w = jax.ShapeDtypeStruct((1, steps, 8), "float32"), jax.ShapeDtypeStruct((3,), "float32")
        function = jax.jit(
            lambda x, w, G: vjp(x, w, G, causal_axis=1) if which == "gradient" else eca(x, w, causal_axis=1)
        )
        program = function.lower(x, w, x).compile()
        return program.memory_analysis().temp_size_in_bytes / (4 * 8 * steps)

    assert needed(40_000) < 1.1 * needed(20_000) < 1.1 * 10
