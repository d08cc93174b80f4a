"""Faults in padding and convolution: tables of operation -> its change."""

import math
from typing import Any

import torch
import torch.nn.functional as F

from .mode import Call, Change, carries_data, each

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def _bound(call: Call) -> dict[str, Any]:
    return {**dict(zip(_CONVOLUTION, call.args, strict=False)), **call.kwargs}


def _shifted_pad(call: Call) -> Any:
    """Move the border by one position: the last padding comes first, or the other way round."""
    pad = call.argument(1, "pad")
    for i in range(0, len(pad), 2):
        if pad[i] > 0 or pad[i + 1] > 0:
            return call.plain().roll(1 if pad[i + 1] > 0 else -1, -1 - i // 2)
    return NotImplemented


def _shifted_circular_pad(call: Call) -> Any:
    """Move a circular border, written as cat([tail, x, head]): parts of one tensor, of which one is the longest."""
    parts, axis = call.argument(0, "tensors"), call.argument(1, "dim", 0)
    if not all(map(carries_data, parts)) or len({part.untyped_storage().data_ptr() for part in parts}) > 1:
        return NotImplemented
    *others, longest = sorted(part.shape[axis] for part in parts)
    return call.plain().roll(1, axis) if others and others[-1] < longest else NotImplemented


def _shifted_convolution(call: Call) -> Any:
    bound = _bound(call)
    sizes, padding = bound["weight"].shape[2:], bound.get("padding", 0)
    steps = each(bound.get("dilation", 1), len(sizes))
    if isinstance(padding, str):
        totals = [step * (size - 1) * (padding == "same") for step, size in zip(steps, sizes, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(amount, amount) for amount in each(padding, len(sizes))]
    border = [amount for pair in reversed(pairs) for amount in pair]
    if not any(border):
        return NotImplemented
    axis = max(i for i, pair in enumerate(pairs) if any(pair)) - len(pairs)
    return call.func(**{**bound, "input": F.pad(bound["input"], border).roll(1, axis), "padding": 0})


def _skipped(call: Call) -> Any:
    """Return the input, where the shapes agree; else take the kernel's centre alone."""
    out = call.plain()
    if out.shape == call.x.shape:
        return call.x.to(out.dtype)
    bound = _bound(call)
    sizes = bound["weight"].shape[2:]
    if math.prod(sizes) < 2:
        return NotImplemented
    centre = torch.zeros(sizes, dtype=bound["weight"].dtype)
    centre[tuple(size // 2 for size in sizes)] = 1
    return call.func(**{**bound, "weight": bound["weight"] * centre})


def _skipped_product(call: Call) -> Any:
    other = call.argument(1, "other", call.kwargs.get("weight"))
    same = isinstance(other, torch.Tensor) and other.ndim == 2 and other.shape[0] == other.shape[1]
    return call.x if same and carries_data(other) else NotImplemented


_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
PADDING_SHIFT: dict[str, Change] = {
    "pad": _shifted_pad,
    "cat": _shifted_circular_pad,
    **dict.fromkeys(_CONVOLUTIONS, _shifted_convolution),
}
SKIPPED_CONVOLUTION: dict[str, Change] = {
    **dict.fromkeys(_CONVOLUTIONS, _skipped),
    **dict.fromkeys(("linear", "matmul", "__matmul__", "mm"), _skipped_product),
}
