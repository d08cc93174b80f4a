"""The control of a red cell: a correct algorithm that rounds to the dtype after each of its steps."""

from functools import partial
from typing import Any

import torch

from eca_multi.parity.budget.noise import RoundingNoise, budget
from tests.support.budgets import LEVELS, U_ACC

from .operation import Operation, audited, share


class Stored(RoundingNoise):
    """Rounds each float64 result of an operation to nearest in a dtype, in place of noise.

    Sums accumulate in float64 and round once, and coordinates round to float32. So a result is what a kernel gives that
    stores every step in the dtype; torch's own is worse only where it accumulates in the dtype, or takes a bad formula.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(0.5, U_ACC, 0.0, torch.Generator())
        self.dtype = dtype

    def perturb(self, func: Any, out: torch.Tensor, k: float = 1.0, magnitude: torch.Tensor | None = None) -> None:
        if out.dtype == torch.float64 and out.layout == torch.strided and not out._is_zerotensor():
            out.copy_(out.to(torch.float32 if self.u == self.u_acc else self.dtype).double())


def both_shares(operation: Operation, dtype: str, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return max |error| / E of torch's own run in `dtype`, and of the control."""
    _, evaluate = audited(operation, dtype, seed)
    u, tiny = LEVELS[dtype]
    reference, errors = budget(partial(evaluate, torch.float64), u, U_ACC, tiny, seed=seed)
    to = getattr(torch, dtype)
    with Stored(to):
        control = evaluate(torch.float64)
    return share(evaluate(to), reference, errors), share(control, reference, errors)
