"""Noise in place, in gradients and in steps; what cannot be followed; values at the edge; what a run leaves behind."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eca_multi.parity.budget.errors import UNBOUNDED
from eca_multi.parity.budget.noise import budget
from tests.support.budgets import TINY, U_ACC, C, Tensors, draw, errors, gradients, noise, noised

pytestmark = pytest.mark.usefixtures("one_thread")


def test_in_place_operations_get_noise_once_where_they_write():
    x, mode = draw(50), noise()
    for f in (lambda y: y.add_(1.0), lambda y: y.mul_(y), lambda y: torch.exp(y, out=y), lambda y: F.silu(y, True)):
        kept = x.clone()
        before = sum(mode.noised.values())
        with mode:
            y = f(kept)
        assert y is kept
        off = (kept - f(x.clone())).abs()
        assert (off > 0).all()
        assert (off <= 4.5 * 2**-8 * (kept.abs() + 1)).all()
        assert sum(mode.noised.values()) - before <= 2  # silu has two steps
    out = torch.empty(0, dtype=torch.float64)
    with mode, warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.mul(x, 3.0, out=out)
    assert out.shape == (50,)
    assert not torch.equal(out, 3 * x)
    assert not mode.unknown_ops


def test_an_in_place_operation_on_a_view_writes_through():
    x, mode = torch.zeros(4, 3, dtype=torch.float64), noise()
    with mode:
        x[1:3].add_(1.0)
    assert (x[[0, 3]] == 0).all()
    assert ((x[1:3] - 1).abs() - 2**-8).abs().max() < 1e-12


def test_relu_in_place_and_its_gradient():
    mode = noise()
    with mode:
        (grad,) = gradients(lambda x: (x * 2).relu_(), draw(9))
    assert mode.noised == {"mul": 2}
    assert grad.shape == (9,)


def test_batch_norm_moves_its_running_statistics_with_noise():
    x = draw(6, 3, 5)
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    plain = mean.clone(), var.clone()
    F.batch_norm(x, *plain, training=True)
    with noise(u=2**-24):
        F.batch_norm(x, mean, var, training=True)
    for noisy, clean in zip((mean, var), plain, strict=True):
        assert 0 < (noisy - clean).abs().max() < 1e-5


def test_gradients_that_meet_are_added_by_an_operation():
    assert noised(lambda x: gradients(lambda x: x * x.detach() + x * 3, x), draw(5)) == {"mul": 4, "add": 2}


TAKEN_APART = {
    "softmax": (lambda x: x.softmax(1), {"sub", "exp", "sum", "div", "mul"}),
    "log_softmax": (lambda x: x.log_softmax(1), {"sub", "exp", "sum", "log", "mul"}),
    "layer_norm": (lambda x: F.layer_norm(x, (6,)), {"mean", "sub", "sum", "div", "add", "rsqrt", "mul"}),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, training=True), {"mean", "sub", "sum", "rsqrt", "mul"}),
    "group_norm": (lambda x: F.group_norm(x, 2), {"mean", "sub", "sum", "rsqrt", "mul"}),
    "var": (lambda x: x.var(1), {"mean", "sub", "mul", "sum", "div"}),
    "gelu": (F.gelu, {"mul", "erf", "exp", "add"}),
    "sigmoid": (torch.sigmoid, {"sigmoid", "mul", "rsub"}),
    "tanh": (torch.tanh, {"tanh", "mul", "rsub"}),
    "linear": (lambda x: F.linear(x, draw(5, 6), draw(5)), {"mm", "add"}),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), {"bmm", "exp", "sum", "sub", "div"}),
    "bilinear": (lambda x: F.interpolate(x[:, None], scale_factor=2, mode="bilinear"), {"sub", "mul", "add"}),
    "cross entropy": (lambda x: F.cross_entropy(x, torch.zeros(4, 6, dtype=torch.long)), {"exp", "log", "sum", "div"}),
}


@pytest.mark.parametrize(("f", "steps"), TAKEN_APART.values(), ids=TAKEN_APART)
def test_what_rounds_inside_is_taken_apart(f, steps):
    x = draw(4, 8, 6)
    assert steps <= set(noised(lambda x: gradients(f, x), x))


def test_a_linear_layer_rounds_twice():
    x, w, b = draw(4, 6), draw(5, 6, seed=1), draw(5, seed=2)
    assert noised(lambda x: F.linear(x, w, b), x) == {"mm": 1, "add": 1}
    assert noised(lambda x: F.conv1d(x[None], draw(3, 4, 2), draw(3)), x) == {"convolution": 1, "add": 1}


def test_decompositions_leave_values_and_gradients_alone():
    """A quiet mode takes apart and adds nothing: what is left is float64's own rounding."""
    x = draw(4, 8, 6)
    for f, _ in TAKEN_APART.values():
        mode = noise()
        mode.quiet = True
        with mode:
            quiet = (f(x), *gradients(f, x))
        for a, b in zip(quiet, (f(x), *gradients(f, x)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        assert not mode.noised


@pytest.mark.parametrize(
    ("f", "name"),
    [
        (lambda x: F.dropout(x, 0.5), "aten::(native_dropout|bernoulli_)"),
        (lambda x: torch.bernoulli(x.abs().clamp(max=1)), "aten::bernoulli"),
        (lambda x: x + torch.randn_like(x), "aten::randn_like"),
        (lambda x: x.clone().normal_(), "aten::normal_"),
    ],
)
def test_random_operations_are_refused_by_name(f, name):
    with pytest.raises(RuntimeError, match=rf"{name}\S* draws random numbers.*feed the mask as an input"):
        budget(lambda: {"y": f(draw(5, 5))}, 2**-8, U_ACC, TINY)


def test_a_layer_may_be_built_at_its_first_use():
    made: list[torch.nn.Module] = []

    def evaluate() -> Tensors:
        made or made.append(torch.nn.Linear(3, 2).double())
        return {"y": made[0](draw(4, 3))}

    assert (budget(evaluate, 2**-8, U_ACC, TINY)[1]["y"] > 0).all()


def test_state_that_is_kept_is_noticed():
    layer = torch.nn.BatchNorm1d(3).double()

    def evaluate() -> Tensors:
        layer(draw(5, 3))
        return {"running_mean": layer.running_mean}

    with pytest.raises(RuntimeError, match="Two float64 runs of the reference differ in 'running_mean'"):
        budget(evaluate, 2**-24, U_ACC, TINY)


def test_an_unknown_operation_counts_as_one_rounding_and_is_named():
    x, mode = draw(5, 5), noise()
    _, E = mode.budget(lambda: {"y": torch.linalg.inv(x)})
    assert mode.unknown_ops == {"aten::linalg_inv_ex"}
    np.testing.assert_allclose(E["y"], 2**-8 * torch.linalg.inv(x).abs() + TINY, rtol=1e-9)


def test_complex_numbers_and_writes_to_float32_are_named():
    x, mode = draw(8), noise()
    with mode:
        torch.fft.rfft(x)
        torch.zeros(8).copy_(x)
    assert "aten::_fft_r2c to torch.complex128" in mode.unknown_ops
    assert "aten::copy_ to torch.float32" in mode.unknown_ops


def test_a_cast_to_float32_stays_in_float64():
    """Layers say `.float()` to leave half precision; the reference must not fall back by it."""
    x = draw(6, 5)

    def evaluate() -> Tensors:
        leaf = x.clone().requires_grad_()
        y = leaf.float().softmax(1, dtype=torch.float32).to(leaf.dtype)
        return {"y": y, "dx": torch.autograd.grad(y, leaf, draw(6, 5, seed=1))[0]}

    r, _ = budget(evaluate, 2**-24, U_ACC, TINY)
    np.testing.assert_allclose(r["y"], x.softmax(1), rtol=1e-14)


def test_infinities_and_nan_pass_and_do_not_spread():
    x = torch.tensor([[torch.inf, 1.0, -2.0], [torch.nan, 3.0, 4.0], [-torch.inf, torch.inf, 1.0]], dtype=torch.float64)
    w = draw(3, 3)
    for f in (lambda x: x * 2, lambda x: x.sum(1), lambda x: x.exp(), lambda x: x.cumsum(1), lambda x: x.mean(0)):
        with noise():
            y = f(x)
        torch.testing.assert_close(y, f(x), rtol=0.02, atol=0, equal_nan=True)
    with noise():
        y = x @ w
    assert torch.equal(torch.isfinite(y), torch.isfinite(x @ w))


def test_the_budget_is_nan_where_the_reference_is_not_finite():
    x = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    r, E = budget(lambda: {"y": 1 / x, "z": x.log()}, 2**-8, U_ACC, TINY)
    assert np.isnan(E["y"]).tolist() == [True, False, False]
    assert np.isnan(E["z"]).tolist() == [True, False, True]
    assert r["y"][0] == np.inf


def test_a_noisy_run_that_is_not_finite_allows_anything():
    x = torch.tensor([0.5, 1.0], dtype=torch.float64)
    _, E = budget(lambda: {"y": (1 - (x * 1.0) ** 2).sqrt()}, 2**-8, U_ACC, TINY)
    assert 0 < E["y"][0] < 0.1
    assert E["y"][1] == UNBOUNDED
    assert np.isfinite(C * E["y"]).all()


def test_empty_tensors_and_scalars():
    for x in (torch.zeros(0, 3, dtype=torch.float64), torch.tensor(2.5, dtype=torch.float64)):
        r, E = budget(lambda x=x: {"y": x * 3, "s": x.sum(), "m": x.reshape(-1, 1) @ draw(1, 2)}, 2**-8, U_ACC, TINY)
        assert E["y"].shape == r["y"].shape == tuple(x.shape)
        assert (E["s"] > 0).all()


def test_more_elements_than_a_chunk_and_any_memory_order():
    x = draw(1 << 19)
    np.testing.assert_allclose(errors(lambda x: x * 3, x, u=2**-8, samples=1), 2**-8 * (3 * x).abs(), rtol=1e-9)
    y = draw(2, 5, 4, 3).to(memory_format=torch.channels_last)
    for f in (lambda y: y * 3, lambda y: (y * 3).transpose(0, 1), lambda y: y[:, ::2] * 3):
        np.testing.assert_allclose(errors(f, y, u=2**-8), 2**-8 * f(y).abs(), rtol=1e-9)
    conv = partial(F.conv2d, weight=draw(4, 5, 3, 3))
    np.testing.assert_allclose(errors(conv, y, u=2**-8), errors(conv, y.contiguous(), u=2**-8), rtol=0.01)


def test_a_seed_gives_the_same_budget_and_another_one_another():
    x = draw(40, 8)
    first, again, other = (
        budget(lambda: {"y": x.softmax(1)}, 2**-8, U_ACC, TINY, samples=4, seed=s)[1]["y"] for s in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nothing_is_left_behind():
    def state() -> list[object]:
        return [
            torch.get_rng_state().tolist(),
            np.random.get_state(legacy=False)["state"]["pos"],
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.utils._python_dispatch._get_current_dispatch_mode(),
        ]

    before = state()
    x = draw(2, 4, 8)
    budget(lambda: {"y": F.scaled_dot_product_attention(x, x, x)}, 2**-8, U_ACC, TINY)
    assert state() == before
    with pytest.raises(RuntimeError, match="draws random numbers"), noise():
        F.dropout(x)
    assert state() == before


def test_noise_differs_between_elements_operations_and_runs():
    x, mode = torch.ones(4000, dtype=torch.float64), noise()
    runs = []
    for _ in range(2):
        with mode:
            runs += [(x * 1.5 - 1.5).sign(), (x * 1.5 - 1.5).sign()]
    for i, a in enumerate(runs):
        assert abs(a.mean()) < 0.1
        assert all(abs((a * b).mean()) < 0.1 for b in runs[:i])
