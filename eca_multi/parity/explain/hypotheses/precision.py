"""Products whose inputs are rounded to fewer bits: TF32, and the passes of a TPU in bfloat16."""

from typing import Any

import torch

from eca_multi.parity.mutants.mode import Call, Change

from .hypothesis import Hypothesis, on
from .weights import CONVOLUTIONS, TRANSPOSED

_PRODUCTS = (*CONVOLUTIONS, *TRANSPOSED, "linear", "matmul", "mm", "bmm", "baddbmm", "addmm")


class _Rounded(torch.autograd.Function):
    """Round to a number of bits after the first; the gradient goes through unchanged."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bits: int) -> torch.Tensor:
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp((mantissa * 2.0 ** (bits + 1)).round() / 2.0 ** (bits + 1), exponent)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None


def _rounding(bits: int) -> Change:
    def change(call: Call) -> Any:
        is_sum = call.name in ("baddbmm", "addmm")
        places = (1, 2) if is_sum else (0, 1)
        args = [_Rounded.apply(x, bits) if i in places else x for i, x in enumerate(call.args)]
        return call.func(*args, **call.kwargs)

    return change


PRECISION = (
    Hypothesis("products round their inputs to TF32", on(_PRODUCTS, _rounding(10)), ("float32",)),
    Hypothesis("products round their inputs to bfloat16", on(_PRODUCTS, _rounding(7)), ("float32",)),
)
