"""Faults in reductions, and a leak between samples: tables of operation -> its change."""

import math
from typing import Any

import torch

from eca_multi.parity.engines._private_torch import tree_iter, tree_map

from .mode import ANY, Call, Change, carries_data, each

HALVES = (torch.float16, torch.bfloat16)
STEPS = 4096  # additions of a sequential sum; a longer one adds blocks


def reduced_axes(call: Call) -> tuple[int, ...] | None:
    """Return the axes that a call reduces, or None for a tensor without data."""
    x = call.x
    if not carries_data(x):
        return None
    if call.name.startswith("adaptive_avg_pool"):
        sizes = call.argument(1, "output_size")
        rank = int(call.name[-2])
        return tuple(range(x.ndim - rank, x.ndim)) if set(each(sizes, rank)) == {1} else None
    axes = call.argument(1, "dim", call.kwargs.get("axis"))
    if axes is None or axes == ():
        return tuple(range(x.ndim))
    return tuple(sorted(axis % x.ndim for axis in ([axes] if isinstance(axes, int) else axes)))


def _scaled(power: float) -> Change:
    def change(call: Call) -> Any:
        axes = reduced_axes(call)
        if axes is None:
            return NotImplemented
        n = math.prod(call.x.shape[axis] for axis in axes)
        return call.plain() * (n / (n - 1) if n > 1 else math.inf) ** power

    return change


class _Instead(torch.autograd.Function):
    """Return the other value with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, first: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return other

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None


def _half_accumulated(call: Call) -> Any:
    axes = reduced_axes(call)
    if axes is None:
        return NotImplemented
    x, exact = call.x.detach(), call.plain()
    half = x.dtype if x.dtype in HALVES else torch.float16
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows = x.permute(*axes, *kept).reshape(-1, *(x.shape[axis] for axis in kept))
    size = -(-len(rows) // STEPS)
    blocks = rows if size == 1 else torch.stack([block.sum(0, dtype=torch.float32) for block in rows.split(size)])
    total = torch.zeros(rows.shape[1:], dtype=half)
    for block in blocks.to(half).unbind():
        total = total + block
    total = total.to(exact.dtype) / (1 if call.name == "sum" else len(rows))
    return _Instead.apply(exact, total.reshape(exact.shape))


_MEANS = ("mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
_SUMS = ("sum", *_MEANS)
N_MINUS_ONE: dict[str, Change] = {
    **dict.fromkeys((*_SUMS, "var"), _scaled(1.0)),
    "std": _scaled(0.5),
}
HALF_ACCUMULATION: dict[str, Change] = dict.fromkeys(_SUMS, _half_accumulated)


def _confused(call: Call) -> tuple[int, int] | None:
    """Return the axis that the call reduces, and an axis to confuse it with."""
    axes, x = reduced_axes(call), call.x
    if axes is None:
        return None
    kept = [axis for axis in range(x.ndim) if axis not in axes and x.shape[axis] > 1]
    reduced = [axis for axis in axes if x.shape[axis] > 1]
    return (reduced[0], kept[-1]) if kept and reduced else None


def _wrong_axis(call: Call) -> Any:
    """Reduce the other axis, in the result's shape: take the elements in the order of the transposed tensor."""
    axes = _confused(call)
    return NotImplemented if axes is None else call.on(call.x.transpose(*axes).reshape(call.x.shape))


def _other_axis(call: Call) -> Any:
    axes = _confused(call)
    return NotImplemented if axes is None else call.on(call.x.transpose(*axes)).transpose(*axes)


WRONG_AXIS: dict[str, Change] = {
    **dict.fromkeys((*_SUMS, "var", "std", "amax", "amin", "logsumexp"), _wrong_axis),
    **dict.fromkeys(("softmax", "log_softmax"), _other_axis),
}


def batch_leak(batch_axes: dict[int, int]) -> dict[str, Change]:
    """Mix 1 % of the neighbouring sample into the first operation that reads an input.

    In a gated layer the first operation computes the statistic behind the gate; a leak into x itself would be obvious.
    """

    def mixed(value: Any) -> Any:
        axis = batch_axes.get(id(value))
        if axis is None or value.shape[axis] < 2:
            return value
        return 0.99 * value + 0.01 * value.roll(1, axis)

    def change(call: Call) -> Any:
        read = {id(value) for value in tree_iter((call.args, dict(call.kwargs))) if id(value) in batch_axes}
        if not read:
            return NotImplemented
        arguments = call.args, dict(call.kwargs)
        args, kwargs = tree_map(mixed, arguments)
        if all(a is b for a, b in zip(tree_iter((args, kwargs)), tree_iter(arguments), strict=True)):  # one sample
            return NotImplemented
        result = call.func(*args, **kwargs)
        if not isinstance(result, torch.Tensor):  # a size
            return NotImplemented
        for key in read:
            del batch_axes[key]
        return result

    return {ANY: change}
