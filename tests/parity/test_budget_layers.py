"""The stochastic budget accepts correct layers of PyTorch and rejects wrong ones."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eca_multi.torch import eca
from tests.support.budget_layers import (
    HALF_SUMS,
    LAYERS,
    TARGETS,
    Layer,
    attention,
    torch_use,
)
from tests.support.budgets import LEVELS, C

pytestmark = pytest.mark.usefixtures("one_thread")


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
