"""Layers in PyTorch with their data, and the share of its error budget that a run of a layer uses."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from eca_multi.parity.budget.noise import budget
from eca_multi.torch import eca
from tests.support.budgets import LEVELS, U_ACC, Tensors


class Layer(NamedTuple):
    """A layer with its data."""

    draw: Callable[[np.random.Generator], dict[str, np.ndarray]]
    torch: Callable[..., torch.Tensor]


def _maps(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw maps whose channels have means of their own, so that something cancels."""
    return rng.normal(size=shape) + rng.uniform(-2, 2, (1, shape[1]) + (1,) * (len(shape) - 2))


def affine(rng: np.random.Generator, *shape: int) -> dict[str, np.ndarray]:
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
    "layer norm": Layer(lambda r: affine(r, 30, 48), lambda x, w, b: F.layer_norm(x, (48,), w, b)),
    "batch norm": Layer(
        lambda r: affine(r, 4, 10, 9, 7),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    ),
    "batch norm eval": Layer(lambda r: affine(r, 4, 10, 9, 7), batch_norm_eval),
    "group norm": Layer(lambda r: affine(r, 4, 12, 9, 7), lambda x, w, b: F.group_norm(x, 3, w, b)),
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
