"""The oracle against a second statement of ECA: plain loops over Python numbers, which share no line with it.

The other tests of the oracle take its values from itself, so a fault in `reference.forward` would be in both sides.
"""

import math
from itertools import product

import numpy as np
import pytest

from eca_multi import reference

PADDINGS = ("zeros", "circular")
GATES = ("sigmoid", "hard_sigmoid", "2sigmoid")


def gate_of(z, gate):
    if gate == "hard_sigmoid":
        return min(max(z + 3, 0), 6) / 6
    sigmoid = 1 / (1 + math.exp(-z))
    return 2 * sigmoid if gate == "2sigmoid" else sigmoid


def in_loops(x, w, padding, gate, mask):
    """Return the means, the logits, the gates and y of x (N, C, L), each as a dict by index."""
    samples, channels, positions = x.shape
    kernels = w if w.ndim == 2 else [w] * channels
    k = len(kernels[0])
    means, logits, gates, y = {}, {}, {}, {}
    for n, c in product(range(samples), range(channels)):
        valid = [s for s in range(positions) if mask is None or mask[n, s]]
        means[n, c] = sum(float(x[n, c, s]) for s in valid) / len(valid) if valid else 0.0
    for n, c in product(range(samples), range(channels)):
        total = 0.0
        for j in range(k):
            other = c + j - k // 2
            if padding == "circular":
                other %= channels
            if 0 <= other < channels:
                total += float(kernels[c][j]) * means[n, other]
        logits[n, c] = total
        gates[n, c] = gate_of(total, gate)
        for s in range(positions):
            y[n, c, s] = float(x[n, c, s]) * gates[n, c]
    return means, logits, gates, y


def single_true(shape):
    """A mask with one valid position in each sample, and another one in each."""
    mask = np.zeros(shape, bool)
    for n in range(shape[0]):
        mask[n, n % shape[1]] = True
    return mask


CASES = {  # shape of x, and the mask
    "several-positions": ((2, 5, 6), None),
    "one-position": ((2, 5, 1), None),
    "one-sample": ((1, 4, 3), None),
    "two-positions": ((2, 5, 2), None),
    "masked": ((2, 5, 6), "random"),
    "single-true": ((3, 5, 6), "single"),
    "single-true-of-one": ((2, 5, 1), "single"),
    "nothing-valid": ((2, 5, 3), "none"),
}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-channel"])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("case", CASES)
def test_forward_is_the_formula(rng, case, padding, gate, shared):
    shape, kind = CASES[case]
    x = 3 * rng.normal(size=shape) + 1
    w = rng.normal(size=3 if shared else (shape[1], 3))
    positions = (shape[0], shape[2])
    masks = {"random": rng.random(positions) < 0.6, "single": single_true(positions), "none": np.zeros(positions, bool)}
    mask = masks.get(kind)
    out = reference.forward(x, w, padding=padding, gate=gate, mask=mask)
    for actual, expected in zip(
        (out.pooled, out.logits, out.gate, out.y), in_loops(x, w, padding, gate, mask), strict=True
    ):
        for index, value in expected.items():
            # A handful of additions of numbers below 10 in float64.
            assert actual[index] == pytest.approx(value, rel=0, abs=1e-13)


def test_one_position_is_its_own_mean(rng):
    x = rng.normal(size=(2, 5, 1, 1))
    np.testing.assert_array_equal(reference.forward(x, [0.5, 1.0, -0.25]).pooled, x[:, :, 0, 0])


def test_a_single_valid_position_is_the_mean(rng):
    x, mask = rng.normal(size=(2, 5, 4)), single_true((2, 4))
    pooled = reference.forward(x, [0.5, 1.0, -0.25], mask=mask).pooled
    np.testing.assert_array_equal(pooled, [x[0, :, 0], x[1, :, 1]])


def test_a_loop_over_other_channels_would_be_seen(rng):
    """The control: one channel further gives other logits."""
    x, w = rng.normal(size=(2, 5, 6)), rng.normal(size=3)
    logits = in_loops(x, w, "zeros", "sigmoid", None)[1]
    shifted = reference.forward(np.roll(x, 1, 1), w).logits
    assert max(abs(shifted[index] - value) for index, value in logits.items()) > 0.1


# The corners of hard_sigmoid: relu6 is flat at both ends, and so is its derivative there.
SLOPES = {-4.0: 0, -3.0: 0, np.nextafter(-3, 0): 1 / 6, 0.0: 1 / 6, np.nextafter(3, 0): 1 / 6, 3.0: 0, 4.0: 0}


@pytest.mark.parametrize(("z", "slope"), SLOPES.items())
def test_the_slope_of_hard_sigmoid_at_its_corners(z, slope):
    assert reference.gate_slope(np.array([z]), "hard_sigmoid")[0] == slope


@pytest.mark.parametrize("corner", [-3.0, 3.0])
def test_at_a_corner_the_gradient_goes_through_the_product_alone(corner):
    x, cotangent = np.full((2, 4, 3), corner), np.arange(24.0).reshape(2, 4, 3) + 1
    grads = reference.backward(x, [1.0], cotangent, gate="hard_sigmoid")
    np.testing.assert_array_equal(grads.d_logits, np.zeros((2, 4)))
    np.testing.assert_array_equal(grads.dw, [0.0])
    np.testing.assert_array_equal(grads.dx, cotangent * (corner > 0))
