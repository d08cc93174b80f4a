"""The stochastic error budget: what an operation is charged; that correct runs are accepted and wrong ones rejected."""

import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F
from flax import linen

from eca_multi.jax import eca as jax_eca
from eca_multi.parity.budget.noise import RoundingNoise, budget
from eca_multi.parity.budget.noisy_array import UNBOUNDED, Noise, budget_numpy, error_budget
from eca_multi.torch import eca

C = 4.0  # of the verdict |error| <= C * E
U_ACC = 2.0**-24
TINY = float(np.finfo(np.float32).tiny)
LEVELS = {"float32": (2.0**-24, TINY), "bfloat16": (2.0**-8, TINY), "float16": (2.0**-11, 2.0**-14)}

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.asarray(np.random.default_rng(seed).normal(size=shape)))


def noise(u: float = 2.0**-8, u_acc: float = U_ACC, tiny: float = TINY, seed: int = 0) -> RoundingNoise:
    return RoundingNoise(u, u_acc, tiny, torch.Generator().manual_seed(seed))


def errors(f: Callable[..., torch.Tensor], *xs: torch.Tensor, u=0.0, u_acc=0.0, tiny=0.0, samples=32) -> np.ndarray:
    return budget(lambda: {"y": f(*xs)}, u, u_acc, tiny, samples=samples)[1]["y"]


def noised(f: Callable[..., object], *xs: torch.Tensor) -> dict[str, int]:
    """Return how often each operation of f got noise."""
    mode = noise()
    with mode:
        f(*xs)
    assert not mode.unknown_ops
    return dict(mode.noised)


def gradients(f: Callable[..., torch.Tensor], *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaves = [x.detach().clone().requires_grad_() for x in xs]
    y = f(*leaves)
    return torch.autograd.grad(y, leaves, draw(*y.shape, seed=9))


# What each operation is charged


def test_one_rounding_is_charged_exactly():
    x, y = draw(7, 5), draw(7, 5, seed=1)
    np.testing.assert_allclose(errors(torch.add, x, y, u=2**-8), 2**-8 * (x + y).abs(), rtol=1e-9)
    np.testing.assert_allclose(errors(torch.exp, x, u=2**-8), 2 * 2**-8 * x.exp(), rtol=1e-9)
    np.testing.assert_allclose(errors(torch.square, x, u=2**-8), 2**-8 * x * x, rtol=1e-9)
    np.testing.assert_allclose(errors(lambda x: x**2, x, u=2**-8), 2**-8 * x * x, rtol=1e-9)


@pytest.mark.parametrize(
    ("f", "n"),
    [
        (lambda x: x.sum(), 600),
        (lambda x: x.sum((1, 3)), 40),
        (lambda x: x.mean((2, 3), keepdim=True), 50),
        (lambda x: x.flatten(1) @ torch.ones(200, 3, dtype=torch.float64), 200),
        (lambda x: torch.einsum("nchw,nkhw->nck", x, torch.ones_like(x)), 50),
        (lambda x: F.avg_pool2d(x, 5), 25),
        (lambda x: F.adaptive_avg_pool2d(x, (1, 2)), 25),
        (lambda x: F.conv2d(x, torch.ones(2, 4, 3, 3, dtype=torch.float64)), 36),
        (lambda x: F.conv2d(x, torch.ones(4, 2, 3, 1, dtype=torch.float64), groups=2), 6),
        (lambda x: F.conv_transpose2d(x, torch.ones(4, 2, 4, 4, dtype=torch.float64), stride=2), 16),
    ],
    ids=["sum", "sum-dim", "mean", "mm", "bmm", "avg_pool", "adaptive", "conv", "groups", "transposed"],
)
def test_a_sum_is_charged_the_root_of_its_length_times_its_terms(f, n):
    x = draw(3, 4, 5, 10)
    with np.errstate(all="ignore"):
        expected = U_ACC * np.sqrt(n) * f(x.abs()).numpy()
    np.testing.assert_allclose(errors(f, x, u_acc=U_ACC), expected, rtol=1e-5)


def test_a_running_sum_is_charged_by_position():
    x = draw(3, 50)
    expected = U_ACC * torch.arange(1, 51).sqrt() * x.abs().cumsum(1)
    np.testing.assert_allclose(errors(lambda x: x.cumsum(1), x, u_acc=U_ACC), expected, rtol=1e-5)


def test_the_error_of_a_sum_grows_with_the_root_of_its_length():
    short, long = (errors(torch.sum, torch.ones(n, dtype=torch.float64), u_acc=U_ACC) / n for n in (100, 10000))
    assert long / short == pytest.approx(10, rel=1e-5)


def test_each_convolution_gradient_has_its_own_length():
    x, w, b = draw(3, 4, 9, 8), draw(6, 4, 3, 3, seed=1), draw(6, seed=2)
    conv = partial(F.conv2d, stride=2, padding=1)
    y = conv(x, w, b)
    leaves = [t.clone().requires_grad_() for t in (x, w, b)]
    cotangent = draw(*y.shape, seed=9)

    def evaluate() -> Tensors:
        return dict(zip("xwb", torch.autograd.grad(conv(*leaves), leaves, cotangent), strict=True))

    _, E = budget(evaluate, 0.0, U_ACC, 0.0, samples=32)
    sizes = [t.abs().requires_grad_() for t in (x, w, b)]
    size = dict(zip("xwb", torch.autograd.grad(conv(*sizes), sizes, cotangent.abs()), strict=True))
    for name, n in (("x", 6 * 2 * 2), ("w", 3 * 5 * 4), ("b", 3 * 5 * 4)):
        np.testing.assert_allclose(E[name], U_ACC * np.sqrt(n) * size[name].numpy(), rtol=1e-5)


def test_scattered_sums_are_charged_by_how_many_terms_meet():
    x, places = draw(6, 3), torch.tensor([0, 1, 1, 4, 1, 1])
    size = torch.zeros(5, 3, dtype=torch.float64).index_add(0, places, x.abs())
    count = torch.tensor([2.0, 5.0, 1.0, 1.0, 2.0], dtype=torch.float64)[:, None]  # with what was there
    f = partial(torch.Tensor.index_add, torch.zeros(5, 3, dtype=torch.float64), 0, places)
    np.testing.assert_allclose(errors(f, x, u_acc=U_ACC), U_ACC * count.sqrt() * size, rtol=1e-5)


def test_cancellation_keeps_the_error_of_what_cancelled():
    x = draw(200)
    E = errors(lambda x: (x * 1.1) - (x * 1.1 - x * 1e-6), x, u=2**-8)
    assert np.median(E / (1e-6 * x.abs().numpy())) > 1e3


def test_a_chain_of_products_adds_up_its_roundings():
    x = draw(300)
    factors = [draw(300, seed=i) for i in range(8)]

    def chain(x):
        for factor in factors:
            x = x * factor
        return x

    units = errors(chain, x, u=2**-24) / (2**-24 * chain(x).abs().numpy())
    assert units.max() <= 8.001
    assert np.median(units) > 3


def test_flushing_to_zero_changes_no_sign_and_leaves_zero():
    x = torch.tensor([0.0, 1e-9, -1e-9, 1.0], dtype=torch.float64)
    mode = noise(tiny=1e-3)
    for _ in range(20):
        with mode:
            y = x + 0.0
        assert y[0] == 0.0
        assert (y[1:3].abs() <= 2.01e-9).all()
        assert (y * x >= 0).all()
        assert torch.isfinite(y.clamp(min=0).sqrt()).all()


# What is charged nothing

EXACT = {
    "view": lambda x: x.view(4, -1),
    "permuted": lambda x: x.transpose(0, 1).contiguous(),
    "expand": lambda x: x.expand(3, *x.shape).clone(),
    "index": lambda x: x[:, [1, 0, 1]],
    "gather": lambda x: x.gather(1, torch.zeros(2, 2, 5, dtype=torch.long)),
    "cat": lambda x: torch.cat([x, x]),
    "pad": lambda x: F.pad(x, (1, 2)),
    "where": lambda x: torch.where(x > 0, x, -x),
    "relu": F.relu,
    "clamp": lambda x: x.clamp(-1, 1),
    "max": lambda x: x.amax(1),
    "sort": lambda x: x.sort()[0],
    "max_pool": lambda x: F.max_pool1d(x, 2),
    "embedding": lambda x: F.embedding(torch.tensor([1, 0]), x[0]),
    "copy_": lambda x: torch.empty_like(x).copy_(x),
    "transpose_": lambda x: x.clone().transpose_(0, 1),
    "masked_fill_": lambda x: x.clone().masked_fill_(x > 0, 2.0),
    "integers": lambda x: (x > 0).sum(1) + 3,
    "float32": lambda x: torch.ones(3) * 1.1,
    "dropout off": lambda x: F.dropout(F.dropout(x, 0.0), 0.5, training=False),
    "norm inf": lambda x: torch.linalg.vector_norm(x, torch.inf),
}


@pytest.mark.parametrize("f", EXACT.values(), ids=EXACT)
def test_what_rounds_nothing_gets_no_noise(f):
    x, mode = draw(2, 4, 5), noise()
    with mode:
        y = f(x)
    assert torch.equal(y, f(x))
    assert not mode.noised


def test_gradients_of_copies_get_no_noise():
    assert noised(lambda x: gradients(lambda x: F.pad(x[:, 1:].transpose(0, 1), (1, 0)), x), draw(3, 4)) == {}


# In place, backwards, and taken apart


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


# What cannot be followed


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


# Values at the edge


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


# The run as a whole


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


# NumPy

NUMPY_FUNCTIONS = {
    "add": (lambda x: x + 1.0, {"add"}),
    "in place": (lambda x: _twice(x), {"multiply", "add"}),
    "into plain": (lambda x: _into_plain(x), {"add", "multiply"}),
    "mean": (lambda x: x.mean((1, 2)), {"add", "divide"}),
    "var": (lambda x: np.var(x, axis=1), {"add", "divide", "subtract", "square"}),
    "matmul": (lambda x: x @ x.swapaxes(1, 2), {"matmul"}),
    "dot": (lambda x: x[0].dot(x[0].T), {"dot"}),
    "tensordot": (lambda x: np.tensordot(x, x, ([0, 1], [0, 1])), {"tensordot"}),
    "einsum": (lambda x: np.einsum("abc,abd->acd", x, x), {"einsum"}),
    "convolve": (lambda x: np.convolve(x[0, 0], x[0, 1]), {"convolve"}),
    "cumsum": (lambda x: x.cumsum(1), {"add"}),
    "norm": (lambda x: np.linalg.norm(x, axis=1), {"norm"}),
    "exp": (np.exp, {"exp"}),
    "where": (lambda x: np.where(x > 0, x, 0.0) * 2.0, {"multiply"}),
    "concatenate": (lambda x: np.concatenate([x, np.zeros_like(x)]) * 2.0, {"multiply"}),
    "pad": (lambda x: np.pad(x, 1) * 2.0, {"multiply"}),
    "elements": (lambda x: sum(v * v for v in x[0, 0]), {"multiply", "add"}),
    "windows": (lambda x: np.lib.stride_tricks.sliding_window_view(x, 2, 2).sum(-1), {"add"}),
}


def _twice(x):
    x = x * 1.5
    x += 1.0
    return x


def _into_plain(x):
    total = np.zeros(x.shape)
    total += x
    return total * 2.0


@pytest.mark.parametrize(("f", "steps"), NUMPY_FUNCTIONS.values(), ids=NUMPY_FUNCTIONS)
def test_numpy_operations_get_noise(f, steps):
    x, noisy = draw(3, 4, 5).numpy(), Noise(2**-8, U_ACC, TINY, 0)
    y = f(noisy.wrap(x))
    assert noisy.noised.keys() == steps
    assert not noisy.unknown_ops
    assert y.shape == f(x).shape
    off = np.abs(np.asarray(y) - f(x))
    assert off.max() > 0
    assert off.max() < 0.1


def test_numpy_copies_get_none_and_unknown_functions_are_named():
    x, noisy = draw(4, 4).numpy(), Noise(2**-8, U_ACC, TINY, 0)
    y = np.maximum(np.where(noisy.wrap(x) > 0, x, -x).T[::2], 0.5).max(1)
    assert np.array_equal(np.asarray(y), np.maximum(np.abs(x).T[::2], 0.5).max(1))
    assert not noisy.noised
    np.linalg.inv(noisy.wrap(x))
    assert noisy.unknown_ops == {"numpy.inv"}


def test_numpy_and_torch_charge_alike():
    x, w = draw(6, 40), draw(40, 5, seed=1)

    def torch_run() -> Tensors:
        return {"p": x @ w, "m": x.mean(1), "e": x.exp() / x.exp().sum(1, keepdim=True)}

    def numpy_run(wrap) -> dict[str, np.ndarray]:
        a, b = wrap(x.numpy()), wrap(w.numpy())
        return {"p": a @ b, "m": a.mean(1), "e": np.exp(a) / np.exp(a).sum(1, keepdims=True)}

    for u in (2**-8, 2**-24):
        r, E = budget(torch_run, u, U_ACC, TINY, samples=64)
        rn, En = budget_numpy(numpy_run, u, U_ACC, TINY, samples=64)
        for name in r:
            np.testing.assert_allclose(r[name], rn[name], rtol=1e-12)
            assert 0.5 < np.median(En[name] / E[name]) < 2.5, name


def test_a_numpy_reference_that_unwraps_its_inputs_is_refused():
    with pytest.raises(RuntimeError, match=r"No operation of the reference was seen.*np\.asanyarray"):
        budget_numpy(lambda wrap: {"y": np.asarray(wrap(np.ones(3))) * 2.0}, 2**-8, U_ACC, TINY)


def test_numpy_nonfinite_values_and_repeatability():
    x = np.array([0.0, 1.0, np.inf])
    r, E = budget_numpy(lambda wrap: {"y": 2.0 * wrap(x)}, 2**-8, U_ACC, TINY)
    assert np.isnan(E["y"]).tolist() == [False, False, True]
    assert r["y"][2] == np.inf
    calls: list[int] = []

    def drifting(wrap):
        calls.append(1)
        return {"y": wrap(np.ones(2)) * len(calls)}

    with pytest.raises(RuntimeError, match="differ in 'y'"):
        budget_numpy(drifting, 2**-24, U_ACC, TINY)


def test_the_floor_of_a_budget():
    E = error_budget({"y": np.array([3.0, 0.0])}, [], 2**-8, TINY)["y"]
    assert E.tolist() == [3 * 2**-8 + TINY, TINY]


# Correct runs are accepted


class Layer(NamedTuple):
    """A layer with its data."""

    draw: Callable[[np.random.Generator], dict[str, np.ndarray]]
    torch: Callable[..., torch.Tensor]


def _maps(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw maps whose channels have means of their own, so that something cancels."""
    return rng.normal(size=shape) + rng.uniform(-2, 2, (1, shape[1]) + (1,) * (len(shape) - 2))


def _affine(rng: np.random.Generator, *shape: int) -> dict[str, np.ndarray]:
    return {"x": _maps(rng, *shape), "w": rng.normal(size=shape[1]), "b": rng.normal(size=shape[1])}


def _dense(rng: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {n: rng.normal(size=s) * (s[-1] ** -0.5 if len(s) > 1 else 1.0) for n, s in shapes.items()}


def attention(x, wq, wk, wv, wo):
    n, t, d = x.shape
    q, k, v = (F.linear(x, w).view(n, t, 4, d // 4).transpose(1, 2) for w in (wq, wk, wv))
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(d // 4), -1)
    return F.linear((weights @ v).transpose(1, 2).reshape(n, t, d), wo)


def squeeze_excite(x, w1, b1, w2, b2):
    s = torch.sigmoid(F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2))
    return x * s[:, :, None, None]


def batch_norm_eval(x, w, b):
    mean, var = (torch.from_numpy(a).to(x.dtype) for a in STATISTICS)
    return F.batch_norm(x, mean, var, w, b, training=False)


def mlp(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


TARGETS = np.arange(33) % 20
STATISTICS = np.arange(10) / 2 - 2, np.arange(1, 11) / 4  # exact in every dtype

LAYERS = {
    "eca": Layer(lambda r: {"x": _maps(r, 2, 20, 13, 11), "w": r.normal(size=5)}, lambda x, w: eca(x, w)),
    "eca 2sigmoid": Layer(
        lambda r: {"x": _maps(r, 2, 20, 13, 11), "w": 8 * r.normal(size=3)},
        lambda x, w: eca(x, w, padding="circular", gate="2sigmoid"),
    ),
    "layer norm": Layer(lambda r: _affine(r, 30, 48), lambda x, w, b: F.layer_norm(x, (48,), w, b)),
    "batch norm": Layer(
        lambda r: _affine(r, 4, 10, 9, 7),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    ),
    "batch norm eval": Layer(lambda r: _affine(r, 4, 10, 9, 7), batch_norm_eval),
    "group norm": Layer(lambda r: _affine(r, 4, 12, 9, 7), lambda x, w, b: F.group_norm(x, 3, w, b)),
    "conv stride 2": Layer(
        lambda r: {"x": _maps(r, 3, 8, 15, 13), "w": r.normal(size=(12, 8, 3, 3)), "b": r.normal(size=12)},
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1),
    ),
    "attention": Layer(
        lambda r: {"x": r.normal(size=(2, 17, 32))} | _dense(r, wq=(32, 32), wk=(32, 32), wv=(32, 32), wo=(32, 32)),
        attention,
    ),
    "gelu mlp": Layer(
        lambda r: _dense(r, w1=(64, 32), b1=(64,), w2=(32, 64), b2=(32,)) | {"x": r.normal(size=(30, 32))},
        mlp,
    ),
    "cross entropy": Layer(
        lambda r: {"x": 3 * r.normal(size=(33, 20))},
        lambda x: F.cross_entropy(x, torch.from_numpy(TARGETS)),
    ),
    "squeeze excite": Layer(
        lambda r: _dense(r, w1=(8, 32), b1=(8,), w2=(32, 8), b2=(32,)) | {"x": _maps(r, 4, 32, 14, 13)},
        squeeze_excite,
    ),
}

# Sums that torch's own kernels accumulate in half precision on the CPU: real defects, found by this budget.
HALF_SUMS = {
    ("layer norm", "bfloat16"): {"dw", "db"},  # 5 % off at 3000 rows
    ("layer norm", "float16"): {"dw", "db"},
    ("conv stride 2", "float16"): {"dx", "dw"},  # slow_conv2d: col2im, and the sum over the batch
}


def quantised(layer: Layer, dtype: str, seed: int) -> tuple[Tensors, torch.Tensor]:
    """Return inputs and weights, and a cotangent, in float64 but with values of `dtype`."""
    rng = np.random.default_rng(seed)
    to = getattr(torch, dtype)
    tensors = {n: torch.from_numpy(np.asarray(a)).to(to).double() for n, a in layer.draw(rng).items()}
    shape = layer.torch(**tensors).shape
    cotangent = torch.from_numpy(np.asarray(rng.normal(size=tuple(shape)) + 0.3))
    return tensors, cotangent.to(to).double()


def evaluate(f: Callable[..., torch.Tensor], tensors: Tensors, cotangent: torch.Tensor, dtype: torch.dtype) -> Tensors:
    """Return y and the gradients of sum(y * cotangent), computed in `dtype`."""
    leaves = {n: t.to(dtype).clone().requires_grad_() for n, t in tensors.items()}
    y = f(**leaves)
    grads = torch.autograd.grad(y, list(leaves.values()), cotangent.to(dtype))
    return {"y": y.detach()} | {f"d{n}": g for n, g in zip(leaves, grads, strict=True)}


def budget_use(
    layer: Layer, dtype: str, seed: int, run: Callable[[Tensors, torch.Tensor], Mapping[str, torch.Tensor]]
) -> dict[str, float]:
    """Return max |error| / E for each result of a run."""
    tensors, cotangent = quantised(layer, dtype, seed)
    reference = partial(evaluate, layer.torch, tensors, cotangent, torch.float64)
    r, E = budget(reference, *_levels(dtype), seed=seed)
    results = run(tensors, cotangent)
    assert results.keys() == r.keys()
    use = {}
    for name, result in results.items():
        assert result.shape == r[name].shape
        use[name] = float(np.max(np.abs(result.double().numpy() - r[name]) / E[name]))
    return use


def _levels(dtype: str) -> tuple[float, float, float]:
    u, tiny = LEVELS[dtype]
    return u, U_ACC, tiny


def torch_use(layer: Layer, dtype: str, seed: int, f: Callable[..., torch.Tensor] | None = None) -> dict[str, float]:
    to = getattr(torch, dtype)
    return budget_use(layer, dtype, seed, lambda tensors, cot: evaluate(f or layer.torch, tensors, cot, to))


def check_torch_runs(name: str, dtype: str, seeds: range) -> None:
    uses = [torch_use(LAYERS[name], dtype, seed) for seed in seeds]
    worst = {result: max(use[result] for use in uses) for result in uses[0]}
    print(f"\nerr/E torch {name} {dtype}: " + ", ".join(f"{n} {use:.2f}" for n, use in worst.items()))
    skipped = HALF_SUMS.get((name, dtype), set())
    assert {n: use for n, use in worst.items() if use > C and n not in skipped} == {}


@pytest.mark.parametrize("dtype", LEVELS)
@pytest.mark.parametrize("name", LAYERS)
def test_correct_torch_runs_are_accepted(name, dtype):
    check_torch_runs(name, dtype, range(2))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", LEVELS)
@pytest.mark.parametrize("name", LAYERS)
def test_correct_torch_runs_are_accepted_whatever_the_seed(name, dtype):
    check_torch_runs(name, dtype, range(100, 140))


def _jax_norm(training: bool, fast_variance: bool = False):
    def norm(x, w, b):
        stats = {n: jnp.asarray(a, x.dtype) for n, a in zip(("mean", "var"), STATISTICS, strict=True)}
        options = {"epsilon": 1e-5, "axis": 1, "dtype": x.dtype, "use_fast_variance": fast_variance}
        layer = linen.BatchNorm(use_running_average=not training, **options)
        return layer.apply({"params": {"scale": w, "bias": b}, "batch_stats": stats}, x, mutable=["batch_stats"])[0]

    return norm


def _jax_attention(x, wq, wk, wv, wo):
    q, k, v = ((x @ w.T).reshape(*x.shape[:2], 4, -1) for w in (wq, wk, wv))
    return jax.nn.dot_product_attention(q, k, v).reshape(x.shape) @ wo.T


def _jax_squeeze_excite(x, w1, b1, w2, b2):
    s = jax.nn.sigmoid(jax.nn.relu(x.mean((2, 3)) @ w1.T + b1) @ w2.T + b2)
    return x * s[:, :, None, None]


def _jax_conv(x, w, b):
    order = ("NCHW", "OIHW", "NCHW")
    return jax.lax.conv_general_dilated(x, w, (2, 2), [(1, 1), (1, 1)], dimension_numbers=order) + b[:, None, None]


JAX = {
    "eca": lambda x, w: jax_eca(x, w.reshape(-1, 1, 1), channel_axis=1),
    "layer norm": lambda x, w, b: linen.LayerNorm(1e-5, x.dtype, use_fast_variance=False).apply(
        {"params": {"scale": w, "bias": b}}, x
    ),
    "batch norm": _jax_norm(True),
    "batch norm eval": _jax_norm(False),
    "conv stride 2": _jax_conv,
    "attention": _jax_attention,
    "gelu mlp": lambda x, w1, b1, w2, b2: jax.nn.gelu(x @ w1.T + b1, approximate=False) @ w2.T + b2,
    "cross entropy": lambda x: -jnp.take_along_axis(jax.nn.log_softmax(x), TARGETS[:, None], 1).mean(),
    "squeeze excite": _jax_squeeze_excite,
    "fast variance": _jax_norm(True, fast_variance=True),
}


def _tf_norm(axes: tuple[int, ...], shape: tuple[int, ...]):
    def norm(x, w, b):
        mean, var = tf.nn.moments(x, axes, keepdims=True)
        w, b = tf.reshape(w, shape), tf.reshape(b, shape)
        return tf.nn.batch_normalization(x, mean, var, b, w, tf.cast(1e-5, x.dtype))

    return norm


def _tf_norm_eval(x, w, b):
    mean, var = (tf.cast(a, x.dtype) for a in STATISTICS)
    parts = (tf.reshape(a, (1, -1, 1, 1)) for a in (mean, var, b, w))
    return tf.nn.batch_normalization(x, *parts, tf.cast(1e-5, x.dtype))


def _tf_attention(x, wq, wk, wv, wo):
    n, t, d = x.shape
    q, k, v = (tf.transpose(tf.reshape(x @ tf.transpose(w), (n, t, 4, d // 4)), (0, 2, 1, 3)) for w in (wq, wk, wv))
    weights = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) / tf.cast(math.sqrt(d // 4), x.dtype), -1)
    return tf.reshape(tf.transpose(weights @ v, (0, 2, 1, 3)), (n, t, d)) @ tf.transpose(wo)


def _tf_conv(x, w, b):
    padded = tf.pad(tf.transpose(x, (0, 2, 3, 1)), [[0, 0], [1, 1], [1, 1], [0, 0]])
    y = tf.nn.bias_add(tf.nn.conv2d(padded, tf.transpose(w, (2, 3, 1, 0)), 2, "VALID"), b)
    return tf.transpose(y, (0, 3, 1, 2))


def _tf_mlp(x, w1, b1, w2, b2):
    return tf.nn.gelu(x @ tf.transpose(w1) + b1) @ tf.transpose(w2) + b2


def _tf_squeeze_excite(x, w1, b1, w2, b2):
    s = tf.sigmoid(tf.nn.relu(tf.reduce_mean(x, (2, 3)) @ tf.transpose(w1) + b1) @ tf.transpose(w2) + b2)
    return x * s[:, :, None, None]


TENSORFLOW = {
    "layer norm": _tf_norm((-1,), (1, -1)),
    "batch norm": _tf_norm((0, 2, 3), (1, -1, 1, 1)),
    "batch norm eval": _tf_norm_eval,
    "conv stride 2": _tf_conv,
    "attention": _tf_attention,
    "gelu mlp": _tf_mlp,
    "cross entropy": lambda x: tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(TARGETS, x)),
    "squeeze excite": _tf_squeeze_excite,
}


def run_jax(name: str, dtype: str, tensors: Tensors, cotangent: torch.Tensor) -> Tensors:
    inputs = {n: jnp.asarray(t.numpy()).astype(dtype) for n, t in tensors.items()}
    y, vjp = jax.vjp(lambda inputs: JAX[name](**inputs), inputs)
    grads = vjp(jnp.asarray(cotangent.numpy()).astype(dtype))[0]
    results = {"y": y} | {f"d{n}": grads[n] for n in inputs}
    assert {r.dtype.name for r in results.values()} == {dtype}
    return {n: torch.from_numpy(np.array(r, np.float64)) for n, r in results.items()}


def run_tensorflow(name: str, dtype: str, tensors: Tensors, cotangent: torch.Tensor) -> Tensors:
    inputs = {n: tf.cast(t.numpy(), dtype) for n, t in tensors.items()}
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = TENSORFLOW[name](**inputs)
    grads = tape.gradient(y, inputs, tf.cast(cotangent.numpy(), dtype))
    results = {"y": y} | {f"d{n}": grads[n] for n in inputs}
    assert {r.dtype.name for r in results.values()} == {dtype}
    return {n: torch.from_numpy(np.array(tf.cast(r, "float64"))) for n, r in results.items()}


# The same defect in the other frameworks' kernels: a vector's gradient is summed in half precision.
SUMMED_IN_HALF = {"dw", "db", "db1", "db2"}
ALSO_IN_FLOAT16 = {"conv stride 2": {"dx"}, "batch norm": {"dx"}}  # of TensorFlow


@pytest.mark.slow
@pytest.mark.parametrize("dtype", LEVELS)
@pytest.mark.parametrize(
    ("run", "name"),
    [(run_jax, n) for n in JAX if n in LAYERS] + [(run_tensorflow, n) for n in TENSORFLOW],
    ids=[f"jax {n}" for n in JAX if n in LAYERS] + [f"tensorflow {n}" for n in TENSORFLOW],
)
def test_correct_jax_and_tensorflow_runs_are_accepted(run, name, dtype):
    uses = [budget_use(LAYERS[name], dtype, seed, partial(run, name, dtype)) for seed in range(4)]
    worst = {result: max(use[result] for use in uses) for result in uses[0]}
    print(
        f"\nerr/E {run.__name__.removeprefix('run_')} {name} {dtype}: "
        + ", ".join(f"{n} {use:.2f}" for n, use in worst.items())
    )
    skipped = set() if dtype == "float32" or name == "eca" else set(SUMMED_IN_HALF)
    if dtype == "float16" and run is run_tensorflow:
        skipped |= ALSO_IN_FLOAT16.get(name, set())
    assert {n: use for n, use in worst.items() if use > C and n not in skipped} == {}


# Wrong ones are rejected


@pytest.mark.slow
def test_a_variance_by_the_difference_of_squares_is_rejected():
    """Flax's default, E[x^2] - E[x]^2, cancels where the mean is large: 15 budgets off in y, 60 in dx."""

    def offset(rng: np.random.Generator) -> dict[str, np.ndarray]:
        arrays = _affine(rng, 4, 10, 9, 7)
        return {**arrays, "x": arrays["x"] + 8}

    layer = LAYERS["batch norm"]._replace(draw=offset)
    for seed in range(3):
        assert max(budget_use(layer, "float32", seed, partial(run_jax, "batch norm", "float32")).values()) < C
        use = budget_use(layer, "float32", seed, partial(run_jax, "fast variance", "float32"))
        print(f"\nerr/E fast variance: {use}")
        assert use["y"] > C
        assert use["dx"] > C


def _mean(x, divisor=0):
    return x.sum((2, 3)) / (math.prod(x.shape[2:]) - divisor)


def _eca_by_hand(x, w, *, pool=_mean, shift=0):
    p = F.pad(pool(x), (len(w) // 2 + shift, len(w) // 2 - shift))
    z = sum(p[:, j : j + x.shape[1]] * w[j] for j in range(len(w)))
    return x * torch.sigmoid(z)[:, :, None, None]


def _unbiased_batch_norm(x, w, b, correction=1, eps=1e-5):
    var, mean = torch.var_mean(x, (0, 2, 3), correction=correction, keepdim=True)
    return (x - mean) * (var + eps).rsqrt() * w[:, None, None] + b[:, None, None]


WRONG = {
    "kernel flip": ("eca", lambda x, w: eca(x, w.flip(0))),
    "hard sigmoid": ("eca", lambda x, w: eca(x, w, gate="hard_sigmoid")),
    "2 * sigmoid": ("eca", lambda x, w: eca(x, w, gate="2sigmoid")),
    "n - 1 divisor": ("eca", lambda x, w: _eca_by_hand(x, w, pool=partial(_mean, divisor=1))),
    "shifted padding": ("eca", lambda x, w: _eca_by_hand(x, w, shift=1)),
    "circular padding": ("eca", lambda x, w: eca(x, w, padding="circular")),
    "max pool": ("eca", lambda x, w: _eca_by_hand(x, w, pool=lambda x: x.amax((2, 3)))),
    "detached gate": ("eca", lambda x, w: x * eca(x, w, return_gate=True)[1].detach()[:, :, None, None] + 0 * w.sum()),
    "layer norm eps": ("layer norm", lambda x, w, b: F.layer_norm(x, (48,), w, b, 1e-3)),
    "batch norm eps": ("batch norm", lambda x, w, b: F.batch_norm(x, None, None, w, b, True, eps=1e-3)),
    "group norm eps": ("group norm", lambda x, w, b: F.group_norm(x, 3, w, b, 1e-3)),
    "unbiased variance": ("batch norm", _unbiased_batch_norm),
    "tanh gelu": (
        "gelu mlp",
        lambda x, w1, b1, w2, b2: F.linear(F.gelu(F.linear(x, w1, b1), approximate="tanh"), w2, b2),
    ),
    "missing bias": ("gelu mlp", lambda x, w1, b1, w2, b2: F.linear(F.gelu(F.linear(x, w1, b1)), w2) + 0.999 * b2),
    "attention scale": ("attention", lambda x, wq, **rest: attention(x, wq * 1.001, **rest)),
    "kernel transposed": ("conv stride 2", lambda x, w, b: F.conv2d(x, w.mT, b, stride=2, padding=1)),
    "smoothed labels": (
        "cross entropy",
        lambda x: F.cross_entropy(x, torch.from_numpy(TARGETS), label_smoothing=1e-3),
    ),
}


def test_the_formula_by_hand_is_accepted():
    for seed in range(2):
        assert max(torch_use(LAYERS["eca"], "float32", seed, _eca_by_hand).values()) < C
        by_hand = partial(_unbiased_batch_norm, correction=0)
        assert max(torch_use(LAYERS["batch norm"], "float32", seed, by_hand).values()) < C


@pytest.mark.parametrize(("name", "wrong"), WRONG.values(), ids=WRONG)
def test_wrong_results_are_rejected(name, wrong, request):
    uses = [max(torch_use(LAYERS[name], "float32", seed, wrong).values()) for seed in range(3)]
    print(f"\nerr/E {request.node.callspec.id}: " + ", ".join(f"{use:.3g}" for use in uses))
    assert min(uses) > C


def _mean_in_half(x):
    """Accumulate in the storage dtype, one term after the other."""
    total = torch.zeros_like(x[:, 0])
    for column in x.unbind(1):
        total = total + column
    return total / x.shape[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_sum_in_half_precision_is_rejected(dtype):
    layer = Layer(lambda r: {"x": np.abs(r.normal(size=(8, 4096)))}, lambda x: x.mean(1))
    right, wrong = (torch_use(layer, dtype, 0, f)["y"] for f in (None, _mean_in_half))
    print(f"\nerr/E mean of 4096 in {dtype}: {right:.2f}, accumulated in {dtype}: {wrong:.3g}")
    assert right < 1.01
    assert wrong > C
