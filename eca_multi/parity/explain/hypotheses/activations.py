"""Faults in activations and softmax: another approximation, another slope, another axis."""

from typing import Any

import torch
import torch.nn.functional as F

from eca_multi.parity.mutants.mode import Call, Change

from .hypothesis import Hypothesis, on, setting, with_argument


def _other_gelu(call: Call) -> Any:
    now = call.argument(1, "approximate", "none")
    return F.gelu(call.x, approximate="tanh" if now == "none" else "none")


def _quick(call: Call) -> Any:
    return call.x * torch.sigmoid(1.702 * call.x)


def _along(offset: int) -> Change:
    """Take the axis that lies `offset` before the right one."""

    def change(call: Call) -> Any:
        axis = call.argument(1, "dim")
        rank = call.x.ndim
        if axis is None or offset >= rank:
            return NotImplemented
        return with_argument(call, 1, "dim", (axis - offset) % rank)

    return change


def _over_all(call: Call) -> Any:
    flat = call.func(call.x.flatten(1), -1) if call.x.ndim > 2 else None
    return NotImplemented if flat is None else flat.reshape(call.x.shape)


def _swapped_halves(call: Call) -> Any:
    first, second = call.x.chunk(2, call.argument(1, "dim", -1))
    return call.on(torch.cat([second, first], call.argument(1, "dim", -1)))


def _interleaved_halves(call: Call) -> Any:
    axis = call.argument(1, "dim", -1)
    pairs = call.x.unflatten(axis, (-1, 2))
    return call.func(torch.cat(pairs.unbind(axis if axis < 0 else axis + 1), axis), axis)


def _old_hard_sigmoid(call: Call) -> Any:
    return (0.2 * call.x + 0.5).clamp(0, 1)


_SOFTMAX = ("softmax", "log_softmax")
ACTIVATIONS = (
    Hypothesis("GELU is the other one of exact and tanh", {"gelu": _other_gelu}),
    Hypothesis("GELU is x * sigmoid(1.702 x)", {"gelu": _quick}),
    *(
        Hypothesis(f"the leaky ReLU's slope is {slope:g}", {"leaky_relu": setting(1, "negative_slope", slope, 0.01)})
        for slope in (0.01, 0.1, 0.2, 0.3)
    ),
    Hypothesis("SiLU is its hard form", {"silu": lambda call: F.hardswish(call.x)}),
    Hypothesis("sigmoid is its hard form", {"sigmoid": lambda call: F.hardsigmoid(call.x)}),
    Hypothesis("hard sigmoid is clip(0.2 x + 0.5)", {"hardsigmoid": _old_hard_sigmoid}),
    *(
        Hypothesis(f"softmax is over the axis {offset} before the right one", on(_SOFTMAX, _along(offset)))
        for offset in (1, 2, 3)
    ),
    Hypothesis("softmax is over all axes but the batch", on(_SOFTMAX, _over_all)),
    Hypothesis("the halves of the gated unit are interleaved", {"glu": _interleaved_halves}),
    Hypothesis("the halves of the gated unit are exchanged", {"glu": _swapped_halves}),
)
