"""The kernel-size rule against exact definitions in integers, which share nothing with its code."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eca_multi import eca_kernel_size

GOLDEN = {
    **dict.fromkeys(range(1, 8), 1),
    8: 3,
    64: 3,
    127: 3,
    128: 5,
    512: 5,
    2047: 5,
    2048: 7,
    8192: 7,
    32768: 9,
}

# Denominators stay small: the exact check raises the channels to that power.
gammas = st.fractions(min_value=Fraction(1, 10), max_value=10, max_denominator=20)
betas = st.fractions(min_value=0, max_value=10, max_denominator=20)
channel_counts = st.integers(1, 2**20)


def is_nearest_odd(k: int, channels: int, gamma, beta) -> bool:
    """Whether k is odd and k - 1 <= (log2(channels) + beta) / gamma < k + 1, decided with integers alone."""
    gamma, beta = Fraction(gamma), Fraction(beta)
    d = math.lcm(gamma.denominator, beta.denominator)
    value = channels**d << int(beta * d)  # 2 ** (d * (log2(channels) + beta))
    return k % 2 == 1 and 1 << int(gamma * d) * (k - 1) <= value < 1 << int(gamma * d) * (k + 1)


@pytest.mark.parametrize(("channels", "k"), GOLDEN.items())
def test_golden_table(channels, k):
    assert eca_kernel_size(channels) == k


def test_the_exact_check_can_fail():
    assert is_nearest_odd(3, 127, 2, 1)
    assert not is_nearest_odd(3, 128, 2, 1)  # a tie at (7 + 1) / 2 = 4 goes up
    assert not is_nearest_odd(4, 64, 2, 1)


@pytest.mark.parametrize(("gamma", "beta"), [(2, 1), (1, 0), (3, 2), (1, 5)])
def test_exact_at_and_beside_every_power_of_two(gamma, beta):
    for channels in (2**n + i for n in range(1, 61) for i in (-1, 0, 1)):
        assert is_nearest_odd(eca_kernel_size(channels, gamma=gamma, beta=beta), channels, gamma, beta)


def test_a_float_logarithm_is_not_exact_there():
    """Why the rule takes none: 2**60 - 1 has the float logarithm of 2**60."""
    gamma, beta, channels = 1, 0, 2**60 - 1
    naive = 2 * math.floor((math.log2(channels) + beta) / gamma / 2) + 1
    assert not is_nearest_odd(naive, channels, gamma, beta)


@pytest.mark.parametrize(("gamma", "beta"), [(2, 1), (1, 1), (3, 2)])
def test_min_size_3_is_the_rule_of_timm(gamma, beta):
    def timm(channels):
        t = int(abs(math.log2(channels) + beta) / gamma)
        return max(t if t % 2 else t + 1, 3)

    channels = range(1, 70_001)
    ours = [eca_kernel_size(c, gamma=gamma, beta=beta, min_size=3) for c in channels]
    assert ours == [timm(c) for c in channels]


def test_min_size_is_a_lower_bound_only():
    assert [eca_kernel_size(c, min_size=5) for c in (1, 64, 512, 2048)] == [5, 5, 5, 7]


@given(channel_counts, gammas, betas)
def test_nearest_odd_for_any_rational_constants(channels, gamma, beta):
    assert is_nearest_odd(eca_kernel_size(channels, gamma=gamma, beta=beta), channels, gamma, beta)


@given(channel_counts, channel_counts, gammas, betas)
def test_monotone_in_the_channels(a, b, gamma, beta):
    small, large = sorted((a, b))
    options = {"gamma": gamma, "beta": beta}
    assert eca_kernel_size(small, **options) <= eca_kernel_size(large, **options)


@given(st.integers(0, 40), st.integers(1, 20), gammas)
def test_a_tie_goes_up(n, half, gamma):
    """log2(2**n) + beta is exactly 2 * half * gamma: midway between two odd numbers."""
    beta = 2 * half * gamma - n
    if beta >= 0:
        assert eca_kernel_size(2**n, gamma=gamma, beta=beta) == 2 * half + 1


@pytest.mark.parametrize(
    ("channels", "gamma", "beta", "k"),
    [
        (1, 0.1, 0.6, 7),  # in binary floating point 0.6 / 0.1 is below 6
        (1, 0.1, 0.3, 3),  # and 0.3 / 0.1 below 3
        (2, 0.7, 0.4, 3),  # 1.4 / 0.7 = 2
        (1, Decimal("0.1"), Decimal("0.6"), 7),
        (1, Fraction(1, 10), Fraction(3, 5), 7),
        (1, np.float64(0.1), np.float32(0.6), 7),
        (512, 2.0, 1.0, 5),
        (512, np.int64(2), np.int8(1), 5),
    ],
)
def test_a_float_is_read_as_the_decimal_that_it_prints_as(channels, gamma, beta, k):
    assert eca_kernel_size(channels, gamma=gamma, beta=beta) == k


def test_not_a_power_of_two_with_constants_that_are_not_integers():
    """3 ** 5 < 2 ** 8 < 3 ** 6: log2(3) / 0.8 is just below 2, and log2(3) / 0.75 just above."""
    assert eca_kernel_size(3, gamma=0.8, beta=0) == 1
    assert eca_kernel_size(3, gamma=0.75, beta=0) == 3


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint64, np.array])
def test_numpy_integers_count(kind):
    k = eca_kernel_size(kind(512), min_size=kind(3))
    assert k == 5
    assert type(k) is int


INTEGER = "must be a positive integer"
ODD = "min_size must be an odd positive integer"
GAMMA = "gamma must be a finite number > 0"
BETA = "beta must be a finite number >= 0"
BAD = [
    (0, {}, ValueError, rf"channels {INTEGER}\. Received: channels=0\. Pass 1 or more"),
    (-64, {}, ValueError, rf"channels {INTEGER}\. Received: channels=-64\."),
    *(
        (bad, {}, TypeError, rf"channels {INTEGER}\. Received: channels=.*Pass an int")
        for bad in (True, np.True_, 64.5, 64.0, np.float32(64), "64", None, [64], 64j, Fraction(64), np.array([64]))
    ),
    *((64, {"gamma": bad}, ValueError, GAMMA) for bad in (0, -2, 0.0, math.nan, math.inf, Decimal("nan"))),
    *((64, {"gamma": bad}, TypeError, GAMMA) for bad in (True, "2", b"2", None, 2j, [2], np.True_, np.array([2.0]))),
    *((64, {"beta": bad}, ValueError, BETA) for bad in (-1, -0.5, math.nan, -math.inf, np.float32("nan"))),
    *((64, {"beta": bad}, TypeError, BETA) for bad in (False, "1", b"1", None, 1j, (1,), np.False_)),
    *((64, {"min_size": bad}, ValueError, ODD) for bad in (0, 2, -1, np.int32(4))),
    *((64, {"min_size": bad}, TypeError, ODD) for bad in (True, 3.0, "3", None)),
]


@pytest.mark.parametrize(("channels", "options", "error", "match"), BAD, ids=[str(row[:2]) for row in BAD])
def test_bad_input(channels, options, error, match):
    with pytest.raises(error, match=match):
        eca_kernel_size(channels, **options)


def test_constants_are_keyword_only():
    with pytest.raises(TypeError, match="positional argument"):
        eca_kernel_size(64, 2)
