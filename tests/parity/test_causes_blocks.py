"""Causes in how a layer is put together: the place of a norm, packed parts, exchanged biases and directions."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.causes import causes_of, randomised

ENCODER = nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, batch_first=True, activation="gelu").eval()
PRE_NORM = nn.TransformerEncoderLayer(
    12, 3, 20, dropout=0.0, batch_first=True, activation="gelu", norm_first=True
).eval()


def tokens():
    return torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(3))


def image(channels=8):
    return 3 * torch.randn(2, channels, 5, 6, generator=torch.Generator().manual_seed(4)) + 1


def feed_forward(m, x):
    return m.linear2(F.gelu(m.linear1(x)))


def norm_first(m, x):
    y = m.norm1(x)
    x = x + m.self_attn(y, y, y)[0]
    return x + feed_forward(m, m.norm2(x))


def norm_last(m, x):
    x = m.norm1(x + m.self_attn(x, x, x)[0])
    return m.norm2(x + feed_forward(m, x))


def residual_of_normalised(m, x):
    x = m.norm1(x)
    x = m.norm2(x + m.self_attn(x, x, x)[0])
    return x + feed_forward(m, x)


def packed(m, x):
    other = copy.deepcopy(m)
    for weight in (other.in_proj_weight, other.in_proj_bias):
        rows = weight.detach().unflatten(0, (3, 3, 4)).transpose(0, 1).flatten(0, 2)
        weight.data.copy_(rows)
    return other(x)


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x)[0]


def renamed(pairs):
    """Return a port that reads the weights of a module under other names."""

    def port(m, x):
        other, held = copy.deepcopy(m), m.state_dict()
        other.load_state_dict({**held, **{name: held[source] for name, source in pairs.items()}})
        return other(x)

    return port


def both(a, b):
    return {a: b, b: a}


def hard_gates(m, x):
    (w_ih, w_hh, b_ih, b_hh), states = m._flat_weights, []
    h = c = torch.zeros(len(x), m.hidden_size, dtype=x.dtype)
    for t in range(x.shape[1]):
        i, f, g, o = (x[:, t] @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, -1)
        c = F.hardsigmoid(f) * c + F.hardsigmoid(i) * torch.tanh(g)
        h = F.hardsigmoid(o) * torch.tanh(c)
        states.append(h)
    return torch.stack(states, 1)


class First(nn.Module):
    """A recurrent layer that returns its outputs alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


def over(axes):
    def port(m, x):
        normal = (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + m.eps).sqrt()
        return normal * m.weight[:, None, None] + m.bias[:, None, None]

    return port


DIRECTIONS = {
    name: source
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for name, source in both(f"layer.{part}_l0", f"layer.{part}_l0_reverse").items()
}
CASES = {
    "norm first": (ENCODER, norm_first, tokens, "the norm comes first"),
    "norm last": (PRE_NORM, norm_last, tokens, "the norm comes last"),
    "residual of the normalised x": (PRE_NORM, residual_of_normalised, tokens, "residual is of the normalised x"),
    "packed head by head": (Attention(12, 3, batch_first=True), packed, tokens, "packed head by head, of 3 heads"),
    "biases of a GRU": (
        First(nn.GRU(12, 5, batch_first=True)),
        renamed(both("layer.bias_ih_l0", "layer.bias_hh_l0")),
        tokens,
        "the input bias and the recurrent bias are exchanged",
    ),
    "directions": (
        First(nn.LSTM(12, 5, batch_first=True, bidirectional=True)),
        renamed(DIRECTIONS),
        tokens,
        "the weights of the two directions are exchanged",
    ),
    "hard gates": (
        First(nn.LSTM(12, 5, batch_first=True)),
        lambda m, x: hard_gates(m.layer, x),
        tokens,
        r"the gates is the hard sigmoid clip\(x / 6 \+ 0.5\)",
    ),
    "instance norm over the channels": (
        nn.InstanceNorm2d(8, affine=True),
        over(1),
        image,
        "the norm is over the channels, the last axis",
    ),
    "instance norm over all": (
        nn.InstanceNorm2d(8, affine=True),
        over((1, 2, 3)),
        image,
        "over all axes but the batch",
    ),
    "number of groups": (
        nn.GroupNorm(4, 16),
        lambda m, x: F.group_norm(x, 8, m.weight, m.bias, m.eps),
        lambda: image(16),
        "the number of groups is 8",
    ),
    "zeros in a maximum": (
        nn.MaxPool2d(3, 2, 1),
        lambda m, x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2),
        lambda: image() - 5,
        "padding is filled with zeros",
    ),
    "dropout at inference": (
        nn.Dropout(0.3).eval(),
        lambda m, x: 0.7 * x,
        image,
        "dropout scales at inference, by 1 -",
    ),
}
FIRST = "norm first"  # of the default suite; the others take a second each


@pytest.mark.parametrize("name", [FIRST, *(pytest.param(n, marks=pytest.mark.slow) for n in CASES if n != FIRST)])
def test_the_cause_is_named(name):
    module, port, x, expected = CASES[name]
    causes = causes_of(randomised(copy.deepcopy(module)), port, x())
    assert any(re.search(expected, cause.says) for cause in causes), causes


@pytest.mark.slow
def test_a_fault_beside_the_place_of_the_norm_is_not_blamed_on_it():
    causes = causes_of(randomised(copy.deepcopy(ENCODER)), lambda m, x: norm_last(m, x) + 0.01 * x, tokens())
    assert not any("norm comes" in cause.says for cause in causes)


class Corrected(nn.Module):
    """The variance of a batch of 7, by torch's divisor and then by another: with a factor, or in two steps."""

    def __init__(self, factor=None):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        variance = x.var(0, correction=1)
        return variance * (7 - 1) / 7 if self.factor is None else variance * self.factor


@pytest.mark.parametrize("factor", [None, 6 / 7, 7 / 6, 0.8571428656578064], ids=["two steps", "6/7", "7/6", "float32"])
def test_a_missing_factor_of_n_and_n_minus_1_is_not_named_as_any_factor(factor):
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(5))
    causes = causes_of(Corrected(factor), lambda m, x: x.var(0, correction=1), x)
    assert "the variance is divided by the other one of n and n - 1" in {cause.says for cause in causes}
    assert not any("constant factor" in cause.says for cause in causes)


def test_another_missing_factor_is_a_constant_one():
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(5))
    causes = causes_of(Corrected(1.7), lambda m, x: x.var(0, correction=1), x)
    assert [cause.says for cause in causes] == ["a constant factor (such as 1/sqrt(d)) is missing"]
