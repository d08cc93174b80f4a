"""The stochastic budget of a JAX function: what each primitive is charged, control flow, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from eca_multi.parity.budget.jax_noise import budget
from eca_multi.parity.budget.noise import budget as torch_budget
from tests.support.budget_layers import LAYERS, evaluate
from tests.support.budgets import TINY, U_ACC, C

X = np.random.default_rng(0).normal(size=(6, 5, 8))
K = np.random.default_rng(1).normal(size=(3, 8, 4))


def errors(f, *xs, u=0.0, u_acc=0.0, tiny=0.0):
    return budget(lambda: {"y": f(*map(jnp.asarray, xs))}, u, u_acc, tiny)[1]["y"]


def test_each_primitive_is_charged_its_roundings():
    def several():
        x = jnp.asarray(X)
        return {"add": x + 1, "exp": jnp.exp(x), "square": x**2, "exact": jnp.sort(x, 1)[::-1, 1:].T, "int": x > 0}

    values, found = budget(several, 2.0**-8, 0.0, 0.0)
    np.testing.assert_allclose(found["add"], 2.0**-8 * np.abs(X + 1), rtol=1e-9)
    np.testing.assert_allclose(found["exp"], 2 * 2.0**-8 * np.exp(X), rtol=1e-9)
    np.testing.assert_allclose(found["square"], 2.0**-8 * X**2, rtol=1e-9)
    np.testing.assert_array_equal(found["exact"], 2.0**-8 * np.abs(values["exact"]))  # E's own least
    assert values["int"].dtype == bool


def conv(x, k, **options):
    return lax.conv_general_dilated(x, k, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), **options)


def pooled(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 1), (1, 1, 1), "VALID")


SUMS = {
    "sum": (lambda x: x.sum((0, 2)), 48),
    "dot": (lambda x: x @ jnp.abs(K[0]), 8),
    "conv": (lambda x: conv(x, jnp.abs(K)), 24),
    "grouped": (lambda x: conv(x, jnp.abs(K[:, :2]), feature_group_count=4), 6),
    "dilated": (lambda x: lax.conv_transpose(x, jnp.abs(K), (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")), 16),
    "window": (pooled, 2),
    "scatter": (lambda x: jnp.zeros((2, 5, 8), x.dtype).at[jnp.array([0, 1] * 3)].add(x), 4),
}


@pytest.mark.parametrize(("f", "n"), SUMS.values(), ids=SUMS)
def test_a_sum_is_charged_the_root_of_its_length_times_its_terms(f, n):
    with jax.enable_x64(True):
        expected = U_ACC * np.sqrt(n) * np.asarray(f(jnp.abs(jnp.asarray(X))))
    np.testing.assert_allclose(errors(f, X, u_acc=U_ACC), expected, rtol=1e-6)


def _steps(x):
    """All control flow, with a product of 1.5 at each step: eight of them in all."""

    def body(carry, row):
        return carry * 1.5, row

    carry, rows = lax.scan(body, x[0], x[:3], reverse=True)
    carry = lax.fori_loop(0, 2, lambda i, c: c * 1.5, carry)
    carry = lax.while_loop(lambda c: c.max() < 0, lambda c: c * 7.0, carry)
    carry = lax.cond(carry.max() > 0, lambda c: c * 1.5, lambda c: c / 3, carry)
    return jax.checkpoint(jax.jit(lambda c: c * 1.5))(carry) * 1.5 + 0 * rows.sum()


def test_control_flow_is_followed_and_its_steps_round():
    values, found = budget(lambda: {"y": _steps(jnp.asarray(X))}, 2.0**-24, 0.0, 0.0)
    np.testing.assert_allclose(values["y"], X[0] * 1.5**8, rtol=1e-14)
    units = found["y"] / (2.0**-24 * np.abs(values["y"]))
    assert units.max() <= 9.001  # the sum with zero rounds too
    assert 3 < np.median(units) < 8


def test_the_steps_of_a_loop_round_independently():
    """64 products: the same sign in each would add up to 64 roundings, and a random walk stays far below."""
    values, found = budget(
        lambda: {"y": lax.fori_loop(0, 64, lambda i, c: c * 1.25, jnp.asarray(X))}, 2.0**-24, 0.0, 0.0
    )
    units = found["y"] / (2.0**-24 * np.abs(values["y"]))
    assert 8 < np.median(units) < units.max() < 45


def layer_norm(x, w, b, eps=1e-5, dtype=jnp.float32):
    """As linen and nnx write it: in float32 inside, whatever the inputs are."""
    x = x.astype(dtype)
    mean = x.mean(-1, keepdims=True)
    var = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + eps) * w + b


def gradients(f, tensors, cotangent, dtype):
    y, back = jax.vjp(f, *(jnp.asarray(t, dtype) for t in tensors.values()))
    return {"y": y} | {f"d{n}": g for n, g in zip(tensors, back(jnp.asarray(cotangent, y.dtype)), strict=True)}


@pytest.mark.slow
def test_the_budget_is_that_of_torch_and_refuses_a_wrong_eps():
    tensors = {n: np.asarray(a, np.float32) for n, a in LAYERS["layer norm"].draw(np.random.default_rng(0)).items()}
    cotangent = np.random.default_rng(1).normal(size=(30, 48)).astype(np.float32)
    reference, found = budget(lambda: gradients(layer_norm, tensors, cotangent, np.float64), 2.0**-24, U_ACC, TINY)

    import torch  # after JAX, as the other tests of both do

    wide = {n: torch.from_numpy(a).double() for n, a in tensors.items()}
    torchs = torch_budget(
        lambda: evaluate(LAYERS["layer norm"].torch, wide, torch.from_numpy(cotangent).double(), torch.float64),
        2.0**-24,
        U_ACC,
        TINY,
    )
    right, wrong = (
        gradients(lambda *a, eps=eps: layer_norm(*a, eps=eps), tensors, cotangent, np.float32) for eps in (1e-5, 1e-4)
    )
    for name, value in reference.items():
        np.testing.assert_allclose(value, torchs[0][name], rtol=1e-9, atol=1e-11)
        assert 1 / 4 < np.median(found[name] / torchs[1][name]) < 4
        assert np.max(np.abs(np.float64(right[name]) - value) / found[name]) < C
    for name in ("y", "dx", "dw"):
        assert np.max(np.abs(np.float64(wrong[name]) - reference[name]) / found[name]) > C


def test_random_numbers_are_refused_by_name():
    with pytest.raises(RuntimeError, match=r"random_bits draws random numbers.*feed the mask as an input"):
        budget(lambda: {"y": jax.random.normal(jax.random.key(0), (3,))}, 2.0**-24, U_ACC, TINY)


def test_a_budget_leaves_no_setting_behind_and_repeats_itself():
    first, second = (errors(jnp.tanh, X, u=2.0**-24) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert jnp.asarray(X).dtype == np.float32
