"""The oracle with `pool_axes`, `causal_axis` and `residual`, against plain loops and finite differences."""

from itertools import product

import numpy as np
import pytest

from eca_multi import reference
from eca_multi._pooling import check_pooling

X = (2, 5, 3, 4, 2)  # N, C and three spatial axes
CASES = {
    "frames": {"pool_axes": (3, 4)},
    "one-axis": {"pool_axes": -1},
    "causal": {"causal_axis": 2},
    "causal-last": {"causal_axis": -1},
    "causal-in-frames": {"pool_axes": (2, 4), "causal_axis": 4},
    "causal-alone": {"pool_axes": 3, "causal_axis": 3},
    "whole": {},
}
both = pytest.mark.parametrize("masked", [False, True], ids=("plain", "masked"))
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def draw(rng, masked):
    x = rng.normal(size=X) + rng.uniform(-2, 2, (1, X[1], 1, 1, 1))
    mask = rng.random((X[0], *X[2:])) < 0.6 if masked else None
    if masked:
        mask[0, :2] = False  # nothing counts so far
    return x, rng.normal(size=3), mask


def mean_in_loops(x, mask, n, c, at, axes, causal):
    """The mean at the position `at` = (i, j, k): over those that share its kept indices, up to its causal one."""
    found = []
    for other in product(*map(range, X[2:])):
        same = all(other[axis - 2] == at[axis - 2] for axis in (2, 3, 4) if axis not in axes)
        before = causal is None or other[causal - 2] <= at[causal - 2]
        if same and before and (mask is None or mask[(n, *other)]):
            found.append(float(x[(n, c, *other)]))
    return sum(found) / len(found) if found else 0.0


@both
@cases
def test_the_gate_at_each_position_is_that_of_plain_loops(options, masked, rng):
    x, w, mask = draw(rng, masked)
    pooling = check_pooling(options.get("pool_axes"), options.get("causal_axis"), 1, X)
    out = reference.forward(x, w, mask=mask, **options)
    assert out.gate.shape == (*X[:2], *(X[axis] for axis in pooling.kept))
    for n, c in product(range(X[0]), range(X[1])):
        for at in product(*map(range, X[2:])):
            means = [mean_in_loops(x, mask, n, d, at, pooling.axes, pooling.causal) for d in range(X[1])]
            z = sum(w[j] * means[c + j - 1] for j in range(3) if 0 <= c + j - 1 < X[1])
            assert out.y[(n, c, *at)] == pytest.approx(x[(n, c, *at)] / (1 + np.exp(-z)))


@both
@cases
@pytest.mark.parametrize("shared", [True, False], ids=("shared", "per-channel"))
def test_gradients_are_those_of_finite_differences(options, masked, shared, rng):
    x, w, mask = draw(rng, masked)
    w = w if shared else rng.normal(size=(X[1], 3))
    G = rng.normal(size=X)

    def loss(x, w):
        return (G * reference.forward(x, w, mask=mask, padding="circular", **options).y).sum()

    grads = reference.backward(x, w, G, mask=mask, padding="circular", **options)
    for _ in range(5):
        dx, dw, step = rng.normal(size=X), rng.normal(size=w.shape), 1e-5
        moved = (loss(x + step * dx, w + step * dw) - loss(x - step * dx, w - step * dw)) / (2 * step)
        assert moved == pytest.approx((grads.dx * dx).sum() + (grads.dw * dw).sum(), rel=1e-6)


@cases
def test_channels_may_lie_anywhere(options, rng):
    """Axes move with the channels: (N, C, *S) with axis a is (N, *S, C) with axis a - 1."""
    x, w, mask = draw(rng, True)
    moved = {
        name: tuple(a if a < 0 else a - 1 for a in np.atleast_1d(value)) if name == "pool_axes" else value - (value > 0)
        for name, value in options.items()
    }
    moved = {name: np.subtract(value, np.less(value, 0)).tolist() for name, value in moved.items()}  # C is last now
    last = np.moveaxis(x, 1, -1)
    first = reference.forward(x, w, mask=mask, **options)
    other = reference.forward(last, w, mask=mask, channel_axis=-1, **moved)
    np.testing.assert_array_equal(np.moveaxis(other.y, -1, 1), first.y)
    np.testing.assert_array_equal(other.gate, first.gate)
    G = rng.normal(size=X)
    back = reference.backward(last, w, np.moveaxis(G, 1, -1), mask=mask, channel_axis=-1, **moved)
    np.testing.assert_allclose(np.moveaxis(back.dx, -1, 1), reference.backward(x, w, G, mask=mask, **options).dx)


@pytest.mark.parametrize("axis", [2, 3])
def test_nothing_comes_from_the_future(axis, rng):
    x, w, _ = draw(rng, False)
    after = np.moveaxis(np.broadcast_to(np.arange(X[axis]) > 1, (*X[:axis], *X[axis + 1 :], X[axis])), -1, axis)
    changed = np.where(after, x + 7, x)
    causal, plain = ([reference.forward(a, w, causal_axis=option).y for a in (x, changed)] for option in (axis, None))
    np.testing.assert_array_equal(causal[0][~after], causal[1][~after])
    assert abs(plain[0] - plain[1])[~after].max() > 1e-2  # a control: the plain mean sees it


def test_bad_padding_reaches_neither_means_nor_gradients(rng):
    x, w, mask = draw(rng, True)
    clean = np.where(mask[:, None], x, 0.0)
    bad = np.where(mask[:, None], x, np.nan)
    G = np.where(mask[:, None], rng.normal(size=X), 0.0)
    options = {"mask": mask, "causal_axis": 2}
    np.testing.assert_array_equal(
        reference.forward(bad, w, **options).gate, reference.forward(clean, w, **options).gate
    )
    ours, theirs = (reference.backward(a, w, G, **options) for a in (bad, clean))
    np.testing.assert_array_equal(ours.dx, theirs.dx)
    np.testing.assert_array_equal(ours.dw, theirs.dw)


def test_the_residual_is_added(rng):
    x, w, _ = draw(rng, False)
    residual = rng.normal(size=X)
    plain = reference.forward(x, w).y
    np.testing.assert_array_equal(reference.forward(x, w, residual=residual).y, plain + residual)
