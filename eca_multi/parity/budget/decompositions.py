"""The steps of operations that round several times inside."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from eca_multi.parity.engines._private_torch import get_decompositions

from .derived import FORWARD

aten = torch.ops.aten

# Decomposed here, although PyTorch counts some of them among its core operations.
COMPOSITE = (
    aten._softmax,
    aten._log_softmax,
    aten.batch_norm_backward,
    aten.gelu,
    aten.elu,
    aten.addmv,
)


def _moments(x: torch.Tensor, dim: Any, correction: float | None, keepdim: bool) -> tuple[torch.Tensor, torch.Tensor]:
    dims = list(range(x.ndim)) if dim is None or dim == [] else list(dim)
    centre = x.mean(dims, keepdim=True) if dims else x
    deviation = x - centre
    count = math.prod(x.shape[d] for d in dims) - (1 if correction is None else correction)
    square = deviation * deviation
    total = square.sum(dims, keepdim=keepdim) if dims else square
    return total / max(count, 0), centre if keepdim or not dims else centre.reshape(total.shape)


def _of_moments(result: Callable[[torch.Tensor, torch.Tensor], Any]) -> Callable[..., Any]:
    def decomposed(x: torch.Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
        return result(*_moments(x, dim, correction, keepdim))

    return decomposed


def _addmm(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    """Unlike PyTorch's decomposition, do not multiply by 1, since the product would get noise."""
    product = a.mm(b) if alpha == 1 else alpha * a.mm(b)
    return product + (bias if beta == 1 else beta * bias)


def _normalised(
    x: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return x * scale + shift, which of the usual forms loses most where x is near its mean."""
    scale = scale if weight is None else scale * weight
    shift = -(mean * scale)
    return x * scale + (shift if bias is None else shift + bias)


def _layer_norm(
    x: torch.Tensor, shape: list[int], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, ...]:
    var, mean = _moments(x, list(range(-len(shape), 0)), 0, keepdim=True)
    rstd = (var + eps).rsqrt()
    return _normalised(x, mean, rstd, weight, bias), mean, rstd


def _group_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    n: int,
    channels: int,
    _: int,
    groups: int,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    grouped = x.reshape(n, groups, channels // groups, -1)
    var, mean = _moments(grouped, [2, 3], 0, keepdim=True)
    rstd = (var + eps).rsqrt()
    affine = [None if a is None else a.view(1, groups, channels // groups, 1) for a in (weight, bias)]
    return _normalised(grouped, mean, rstd, *affine).view(x.shape), mean.view(n, groups), rstd.view(n, groups)


def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    shape = [1, -1] + [1] * (x.ndim - 2)
    if training or running_mean is None or running_var is None:
        n = x.numel() // max(x.shape[1], 1)
        var, mean = _moments(x, [d for d in range(x.ndim) if d != 1], 0, keepdim=False)
        rstd = (var + eps).rsqrt()
        saved = (mean, rstd)
        for running, new in ((running_mean, mean), (running_var, var * (n / max(n - 1, 1)))):
            if running is not None:
                running.copy_(momentum * new + (1 - momentum) * running)
    else:
        mean, rstd = running_mean, (running_var + eps).rsqrt()
        saved = (x.new_empty(0), x.new_empty(0))
    affine = [None if a is None else a.view(shape) for a in (weight, bias)]
    return _normalised(x, mean.view(shape), rstd.view(shape), *affine), *saved


@cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return PyTorch's decompositions, and ours where PyTorch's are incomplete or round too rarely."""
    return {
        **torch.export.default_decompositions(),
        **get_decompositions(COMPOSITE),
        **FORWARD,
        aten.addmm.default: _addmm,
        aten.native_layer_norm.default: _layer_norm,
        aten.native_group_norm.default: _group_norm,
        aten.native_batch_norm.default: _batch_norm,
        aten._native_batch_norm_legit.default: _batch_norm,
        aten._native_batch_norm_legit.no_stats: lambda x, w, b, *rest: _batch_norm(x, w, b, None, None, *rest),
        aten._native_batch_norm_legit_no_training.default: lambda x, w, b, mean, var, momentum, eps: _batch_norm(
            x, w, b, mean, var, False, momentum, eps
        ),
        aten._batch_norm_with_update.default: lambda x, w, b, mean, var, momentum, eps: (
            *_batch_norm(x, w, b, mean, var, True, momentum, eps),
            x.new_empty(0, dtype=torch.uint8),
        ),
        aten.var.correction: _of_moments(lambda var, mean: var),
        aten.std.correction: _of_moments(lambda var, mean: var.sqrt()),
        aten.var_mean.correction: _of_moments(lambda var, mean: (var, mean)),
        aten.std_mean.correction: _of_moments(lambda var, mean: (var.sqrt(), mean)),
    }
