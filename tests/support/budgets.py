"""Float64 tensors with noise on every operation, and the error budget of a function."""

from collections.abc import Callable

import numpy as np
import torch

from eca_multi.parity.budget.noise import RoundingNoise, budget

C = 4.0  # of the verdict |error| <= C * E

U_ACC = 2.0**-24

TINY = float(np.finfo(np.float32).tiny)

LEVELS = {"float32": (2.0**-24, TINY), "bfloat16": (2.0**-8, TINY), "float16": (2.0**-11, 2.0**-14)}

Tensors = dict[str, torch.Tensor]


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
