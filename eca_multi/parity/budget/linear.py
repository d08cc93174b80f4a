"""Operations linear in their tensors: a sum of n products gets noise in proportion to sqrt(n)."""

import math
from collections.abc import Callable
from typing import Any

import torch

from eca_multi.parity.engines._private_torch import OpOverload, tree_map

from .plain_rules import Args, Mode, Rule, exact, is_float64

_BAG_MEAN, _BAG_MAXIMUM = 1, 2  # the numbers of PyTorch's modes of embedding bags


def _norm(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    order = args[1] if len(args) > 1 else kwargs.get("ord", 2)
    return (exact if order in (math.inf, -math.inf) else _sums(_fan_in))(mode, func, args, kwargs)


def _sums(terms: Callable[..., float | torch.Tensor]) -> Rule:
    """Return the rule of an operation linear in its float64 tensors, whose results are sums of terms(...) products."""

    def sums(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if mode.quiet or out.dtype != torch.float64 or out.numel() == 0:
            return out
        magnitude = func(*tree_map(magnitude_of, args), **kwargs)
        mode.perturb(func, out, 1.0, magnitude * terms(func, out, *args, **kwargs) ** 0.5)
        return out

    return sums


def _convolution(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    """Add the bias in a step of its own: most frameworks round before it."""
    x, weight, bias, stride, padding, dilation, transposed, *rest = args
    out = func(x, weight, None, stride, padding, dilation, transposed, *rest)
    if not mode.quiet and out.numel():
        n = _contributions(weight, stride) * x.shape[1] if transposed else weight[0].numel()
        size = func(magnitude_of(x), magnitude_of(weight), None, stride, padding, dilation, transposed, *rest)
        mode.perturb(func, out, 1.0, size * (n / (rest[-1] if transposed else 1)) ** 0.5)
    if bias is None:
        return out
    with mode:
        return out + bias.view(-1, *[1] * (weight.ndim - 2))


def _convolution_backward(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    cotangent, x, weight, _, stride, _, _, transposed, _, groups, _ = args
    outs = func(*args, **kwargs)
    if mode.quiet or cotangent.numel() == 0:
        return outs
    sizes = func(*map(magnitude_of, args), **kwargs)
    per_group = cotangent.shape[1] // groups
    positions = (x if transposed else cotangent)[:, 0].numel()
    into_x = weight[0].numel() if transposed else per_group * _contributions(weight, stride)
    for out, size, n in zip(outs, sizes, (into_x, positions, cotangent[:, 0].numel()), strict=True):
        if out is not None:
            mode.perturb(func, out, 1.0, size * n**0.5)
    return outs


def _bags(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    """Sums of the rows of each bag; a mean divides too, and a maximum rounds nothing."""
    outs = func(*args, **kwargs)
    named = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    how = named.get("mode", 0)
    if not mode.quiet and how != _BAG_MAXIMUM and outs[0].numel():
        sizes = func(*map(magnitude_of, args), **tree_map(magnitude_of, kwargs))[0]
        terms = outs[2].clamp(min=1)[: len(outs[0]), None].sqrt()
        mode.perturb(func, outs[0], 2.0 if how == _BAG_MEAN else 1.0, sizes * terms)
    return outs


def _bags_backward(
    func: OpOverload, out: torch.Tensor, cotangent: torch.Tensor, indices: torch.Tensor, *_: Any, **__: Any
) -> torch.Tensor:
    return torch.bincount(indices, minlength=len(out))[:, None].clamp(min=1).double()


def _contributions(weight: torch.Tensor, stride: list[int]) -> int:
    """Count the kernel's elements that add to one position of a transposed convolution."""
    size = weight.shape[2:]
    strides = stride if len(stride) == len(size) else list(stride) * len(size)
    return math.prod(math.ceil(k / s) for k, s in zip(size, strides, strict=True))


def _fan_in(func: OpOverload, out: torch.Tensor, x: torch.Tensor, *_: Any, **__: Any) -> float:
    return max(x.numel() / out.numel(), 1.0)


def _inner(func: OpOverload, out: torch.Tensor, a: torch.Tensor, *_: Any, **__: Any) -> float:
    return a.shape[-1] if a.ndim else 1


def _window(func: OpOverload, out: torch.Tensor, x: torch.Tensor, kernel: list[int], *_: Any, **__: Any) -> float:
    return math.prod(kernel if len(kernel) > 1 else kernel * int(func._opname.removesuffix("d")[-1]))


def _windows(
    func: OpOverload, out: torch.Tensor, cotangent: torch.Tensor, x: torch.Tensor, kernel: list[int], *_: Any, **__: Any
) -> float:
    return max(math.prod(kernel) * cotangent.numel() / out.numel(), 1.0)


def _position(func: OpOverload, out: torch.Tensor, x: torch.Tensor, dim: int, *_: Any, **__: Any) -> torch.Tensor:
    count = torch.arange(1, x.shape[dim] + 1 if x.ndim else 2, device=x.device, dtype=torch.float64)
    return count.view(-1, *[1] * (x.ndim - 1 - dim % x.ndim)) if x.ndim else count.view(())


def _multiplicity(func: OpOverload, out: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Count the terms of each sum: the sum of ones."""
    ones = tree_map(lambda a: torch.ones_like(a) if is_float64(a) else a, args)
    counts: torch.Tensor = func(*ones, **kwargs)
    return counts.abs().clamp_(min=1)


def _scattered(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    """A scatter adds only if `accumulate` or `reduce` says so."""
    named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    adds = named.get("accumulate", False) or named.get("reduce") not in (None, "amax", "amin")
    return (_sums(_multiplicity) if adds else exact)(mode, func, args, kwargs)


def _each(names: str, rule: Rule) -> dict[str, Rule]:
    """Return the rule under each name; `#` stands for 1, 2 and 3 dimensions."""
    return {name.replace("#", str(d)): rule for name in names.split() for d in (1, 2, 3)}


LINEAR: dict[str, Rule] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "linalg_vector_norm": _norm,
    "_embedding_bag": _bags,
    "_embedding_bag_forward_only": _bags,
    "_embedding_bag_backward": _sums(_bags_backward),
    "_embedding_bag_dense_backward": _sums(_bags_backward),
    "_embedding_bag_per_sample_weights_backward": _sums(lambda func, out, cotangent, *_, **__: cotangent.shape[-1]),
    **_each("index_put _unsafe_index_put _index_put_impl scatter scatter_reduce index_reduce", _scattered),
    **_each("sum mean nansum prod trace", _sums(_fan_in)),
    **_each("mm bmm mv dot vdot", _sums(_inner)),
    **_each("cumsum cumprod", _sums(_position)),
    **_each("avg_pool#d", _sums(_window)),
    **_each("avg_pool#d_backward", _sums(_windows)),
    **_each("_adaptive_avg_pool#d _adaptive_avg_pool#d_backward", _sums(_fan_in)),
    **_each("index_add scatter_add embedding_dense_backward col2im unfold_backward", _sums(_multiplicity)),
    **_each("_unsafe_masked_index_put_accumulate", _sums(_multiplicity)),
    **_each("max_pool#d_with_indices_backward adaptive_max_pool#d_backward", _sums(_multiplicity)),
    **_each("upsample_nearest#d_backward _upsample_nearest_exact#d_backward", _sums(_multiplicity)),
    **_each("reflection_pad#d_backward replication_pad#d_backward", _sums(_multiplicity)),
}


def magnitude_of(value: Any) -> Any:
    # In float32: the size of an error needs no more, and a convolution takes a quarter of the time.
    return value.abs().float() if is_float64(value) else value
