"""Noise on NumPy's operations, which are charged as PyTorch's are."""

import numpy as np
import pytest

from eca_multi.parity.budget.errors import error_budget
from eca_multi.parity.budget.noise import budget
from eca_multi.parity.budget.noisy_array import Noise, budget_numpy
from tests.support.budgets import TINY, U_ACC, Tensors, draw

pytestmark = pytest.mark.usefixtures("one_thread")


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
