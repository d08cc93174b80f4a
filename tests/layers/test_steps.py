"""`eca_step`: a stream in blocks of any length gives what the whole sequence gives, in every framework that has it."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from eca_multi import reference
from eca_multi.parity.define.dtypes import quantise
from tests.support.oracle import oracle

STREAMING = pytest.mark.only("torch", "keras", "jax")
SHAPE = (2, 6, 23, 4)  # channels first, time behind them
SPLITS = {"one by one": (1,) * 23, "blocks": (5, 1, 9, 8), "whole": (23,)}
CASES = {
    "causal": {"causal_axis": 2},
    "the last axis": {"causal_axis": 3},
    "each row apart": {"causal_axis": 2, "pool_axes": (2,)},
}


def draw(rng, shape=SHAPE):
    x = rng.normal(size=shape) + rng.uniform(-2, 2, (shape[1], *(1,) * (len(shape) - 2)))
    mask = rng.uniform(size=(shape[0], *shape[2:])) < 0.6
    mask[1, :7] = False
    return x, rng.normal(size=5), rng.normal(size=shape), mask


def native(framework, array):
    return array if framework.native_axis == 1 else np.moveaxis(array, 1, -1)


def kernel(framework, w):
    return w[None, None] if framework.kind == "torch" else w[:, None, None]


def in_native(framework, case):
    """The axes of a case where the framework has its channels."""
    behind = 0 if framework.native_axis == 1 else 1
    return {k: tuple(a - behind for a in v) if isinstance(v, tuple) else v - behind for k, v in case.items()}


def stream(framework, x, w, residual, mask, case, split, dtype):
    """Return y of the blocks one after the other, channels first, and the last state."""
    axis, state, blocks, start = case["causal_axis"], None, [], 0
    options = {**in_native(framework, case), "channel_axis": framework.native_axis}
    weight = framework.tensor(kernel(framework, w), dtype)

    def step(x, w, state, residual, mask):
        return framework.package.eca_step(x, w, state, residual=residual, mask=mask, **options)

    for length in split:
        at, start = range(start, start + length), start + length
        parts = [framework.tensor(native(framework, array.take(at, axis)), dtype) for array in (x, residual)]
        mask_part = None if mask is None else framework.tensor(mask.take(at, axis - 1))
        y, state = (jax.jit(step) if framework.kind == "jax" else step)(parts[0], weight, state, parts[1], mask_part)
        assert framework.dtype_of(y) == dtype
        blocks.append(framework.numpy(y))
    y = np.concatenate([b if framework.native_axis == 1 else np.moveaxis(b, -1, 1) for b in blocks], axis)
    return y, state


def streams():
    """Every case in every split, masked or not; three of them by default."""
    quick = {("causal", "blocks", True), ("the last axis", "one by one", False), ("each row apart", "whole", True)}
    for case, split, masked in product(CASES, SPLITS, (False, True)):
        marks = [] if (case, split, masked) in quick else [pytest.mark.slow]
        id = f"{case}, {split}, {'masked' if masked else 'plain'}"
        yield pytest.param(CASES[case], SPLITS[split], masked, id=id, marks=marks)


@STREAMING
@pytest.mark.parametrize(("case", "split", "masked"), list(streams()))
def test_blocks_are_the_whole_sequence(framework, case, split, masked, rng):
    x, w, residual, mask = draw(rng)
    if case["causal_axis"] == 3:  # 23 steps along each axis of time
        x, residual, mask = x.swapaxes(2, 3), residual.swapaxes(2, 3), mask.swapaxes(1, 2)
    x, w, residual = (quantise(a, "float32") for a in (x, w, residual))
    mask = mask if masked else None
    y, state = stream(framework, x, w, residual, mask, case, split, "float32")
    given = {"x": x, "weight": w, "cotangent": x, **({} if mask is None else {"mask": mask})}
    value, budget = oracle(given, case, "float32")["y"]
    budget = budget + 2.0**-23 * (np.abs(value) + np.abs(residual))  # the sum with the residual, once
    assert (np.abs(y - value - residual) <= budget).all()
    assert type(state)._fields == ("total", "total_low", "count", "count_low")
    kept = tuple(np.delete(x.shape[2:], [a for a in range(2) if a + 2 in case.get("pool_axes", (2, 3))]))
    assert [tuple(part.shape) for part in state] == [(*x.shape[:2], *kept)] * 2 + [(x.shape[0], *kept)] * 2


@STREAMING
def test_a_state_that_is_forgotten_is_seen(framework, rng):
    """The control: each block on its own has other means."""
    x, w, residual, _ = draw(rng)
    whole, _ = stream(framework, x, w, residual, None, CASES["causal"], (23,), "float32")
    later, _ = stream(framework, x[:, :, 5:], w, residual[:, :, 5:], None, CASES["causal"], (18,), "float32")
    assert np.abs(whole[:, :, 5:] - later).max() > 1e-2


@STREAMING
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", pytest.param("float64", marks=pytest.mark.slow)])
def test_the_state_is_wider_than_x(framework, dtype, rng):
    x, w, residual, _ = draw(rng)
    if framework.kind == "jax" and dtype == "float64":
        with jax.enable_x64(True):
            y, state = stream(framework, x, w, residual, None, CASES["causal"], SPLITS["blocks"], dtype)
    else:
        y, state = stream(framework, x, w, residual, None, CASES["causal"], SPLITS["blocks"], dtype)
    assert {framework.dtype_of(part) for part in state} == {"float64" if dtype == "float64" else "float32"}
    if dtype != "float64":
        x, w, residual = (quantise(a, dtype) for a in (x, w, residual))
    expected = reference.forward(x, w, causal_axis=2, residual=residual).y
    unit = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float64": 1e-13}[dtype]
    assert (np.abs(y - expected) <= unit * (np.abs(expected) + 1)).all()


@STREAMING
def test_start_is_the_state_of_no_position(framework, rng):
    x, w, *_ = draw(rng)
    options = {**in_native(framework, CASES["each row apart"]), "channel_axis": framework.native_axis}
    x, w = framework.tensor(native(framework, x), "float32"), framework.tensor(kernel(framework, w), "float32")
    package = framework.package
    for example in (x, tuple(x.shape)):
        start = package.ECAState.start(example, **options)
        assert all(not framework.numpy(part).any() for part in start)
        ours, theirs = (package.eca_step(x, w, state, **options) for state in (start, None))
        np.testing.assert_array_equal(framework.numpy(ours[0]), framework.numpy(theirs[0]))
        for one, other in zip(ours[1], theirs[1], strict=True):
            np.testing.assert_array_equal(framework.numpy(one), framework.numpy(other))


@STREAMING
def test_bad_input(framework):
    x = native(framework, np.ones((2, 6, 5)))
    x, w = framework.tensor(x, "float32"), framework.tensor(kernel(framework, np.ones(3)), "float32")
    step, axis = framework.package.eca_step, {"channel_axis": framework.native_axis}
    time = 2 if framework.native_axis == 1 else 1
    other = framework.package.ECAState.start((3, 6, 5) if time == 2 else (3, 5, 6), causal_axis=time, **axis)
    with pytest.raises(ValueError, match=r"state must be of sums \(2, 6\) and counts \(2,\) for x of shape"):
        step(x, w, other, causal_axis=time, **axis)
    with pytest.raises(TypeError, match=r"causal_axis must be an integer\. Received: causal_axis=None"):
        step(x, w, causal_axis=None, **axis)
    with pytest.raises(ValueError, match="causal_axis must be another axis than the batch axis 0"):
        step(x, w, causal_axis=0, **axis)


# --- JAX ---------------------------------------------------------------------------------------------------------


def scanned(x, w):
    """Return y of (N, T, C), one position a step, and the last state."""
    from eca_multi.jax import ECAState, eca_step

    def step(state, x):
        y, state = eca_step(x[:, None], w, state, causal_axis=1)
        return state, y[:, 0]

    state, y = lax.scan(step, ECAState.start(x[:, :1], causal_axis=1), jnp.moveaxis(x, 1, 0))
    return jnp.moveaxis(y, 0, 1), state


@pytest.mark.usefixtures("optimised")
def test_a_scan_over_a_million_steps(rng):
    """XLA keeps the order of the compensated sums: a plain sum would be off by hundreds of roundings."""
    x = rng.uniform(0.5, 1.5, (1, 1_000_000, 2)).astype(np.float32)
    y, state = jax.jit(scanned)(x, jnp.ones(1))
    means = np.cumsum(x, 1, np.float64) / np.arange(1, 1_000_001)[:, None]
    gates = np.asarray(y, np.float64) / x
    # The sigmoid's slope is below its value here, so its relative error is no more than the mean's and a few roundings.
    assert np.abs(gates * (1 + np.exp(-means)) - 1).max() < 8 * 2.0**-24
    total = np.asarray(state.total, np.float64) + np.asarray(state.total_low, np.float64)
    np.testing.assert_allclose(total, x.sum(1, dtype=np.float64), rtol=1e-12)
    assert np.abs(np.asarray(state.total) / x.sum(1, dtype=np.float64) - 1).max() > 1e-12  # the low part counts


def test_gradients_of_a_scan(rng):
    x, w, G, _ = draw(rng, (2, 6, 11))
    with jax.enable_x64(True):
        _, pull = jax.jit(lambda x, w: jax.vjp(lambda x, w: scanned(x, w)[0], x, w))(np.moveaxis(x, 1, -1), w)
        dx, dw = pull(np.moveaxis(G, 1, -1))
    expected = reference.backward(x, w, G, causal_axis=2)
    np.testing.assert_allclose(np.moveaxis(dx, -1, 1), expected.dx, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dw, expected.dw, rtol=1e-12, atol=1e-12)
