"""What each operation is charged for its rounding, and what is charged nothing."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eca_multi.parity.budget.noise import budget
from tests.support.budgets import U_ACC, Tensors, draw, errors, gradients, noise, noised

pytestmark = pytest.mark.usefixtures("one_thread")


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
