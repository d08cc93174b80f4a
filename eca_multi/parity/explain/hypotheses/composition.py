"""Faults in putting operations together: a residual, an activation, a concatenation, an index."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from eca_multi.parity.mutants.mode import Call, Change

from .hypothesis import Hypothesis, is_weight, on

CONCATENATIONS = ("cat", "concat", "concatenate")
_ACTIVATIONS = (
    "relu",
    "relu6",
    "gelu",
    "silu",
    "sigmoid",
    "tanh",
    "elu",
    "leaky_relu",
    "hardswish",
    "softplus",
    "mish",
)


def _one_term(kept: int) -> Change:
    """Keep one of two terms of data, of one shape."""

    def change(call: Call) -> Any:
        terms = call.args[:2]
        are_data = len(terms) == 2 and all(isinstance(t, torch.Tensor) and not is_weight(t) for t in terms)
        if not are_data or terms[0].shape != terms[1].shape or not terms[kept].is_floating_point():
            return NotImplemented
        return terms[kept].clone()

    return change


def _passed_on(call: Call) -> Any:
    return call.x.clone() if call.x.is_floating_point() else NotImplemented


def _activated(function: Callable[[torch.Tensor], torch.Tensor], name: str) -> Change:
    def change(call: Call) -> Any:
        return NotImplemented if call.name == name else function(call.x)

    return change


def _other_relu(call: Call) -> Any:
    return call.x.clamp(0, 6) if call.name == "relu" else call.x.clamp(min=0)


def _parts(call: Call) -> tuple[list[torch.Tensor], int] | None:
    parts, axis = call.argument(0, "tensors"), call.argument(1, "dim", 0)
    fits = len(parts) > 1 and all(part.is_floating_point() for part in parts)
    return (list(parts), axis) if fits else None


def _reversed_parts(call: Call) -> Any:
    found = _parts(call)
    return NotImplemented if found is None else torch.cat(found[0][::-1], found[1])


def interleaved_parts(call: Call) -> Any:
    found = _parts(call)
    if found is None or len({part.shape for part in found[0]}) > 1:
        return NotImplemented
    parts, axis = found
    axis %= parts[0].ndim
    return torch.stack(parts, axis + 1).flatten(axis, axis + 1)


def _embedding(step: int) -> Change:
    """Read the row before or after the right one."""

    def change(call: Call) -> Any:
        indices, weight, *rest = call.args
        # The order of the arguments is (weight, indices) below torch.nn.functional.
        if indices.is_floating_point():
            return call.func(indices.roll(step, 0), weight, *rest, **call.kwargs)
        return call.func(indices, weight.roll(step, 0), *rest, **call.kwargs)

    return change


def _scaled_embedding(power: float) -> Change:
    def change(call: Call) -> Any:
        rows = call.plain()
        return rows * rows.shape[-1] ** power

    return change


def _scaled_dropout(share: Callable[[float], float]) -> Change:
    def change(call: Call) -> Any:
        rate, training = call.argument(1, "p", 0.5), call.argument(2, "train", True)
        return NotImplemented if training or not 0 < rate < 1 else call.x * share(rate)

    return change


_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout")
COMPOSITION = (
    Hypothesis("dropout scales at inference, by 1 - rate", on(_DROPOUTS, _scaled_dropout(lambda rate: 1 - rate))),
    Hypothesis("dropout scales at inference, by its rate", on(_DROPOUTS, _scaled_dropout(lambda rate: rate))),
    Hypothesis("the first term of a sum (such as a residual) is missing", {"add": _one_term(1)}),
    Hypothesis("the second term of a sum is missing", {"add": _one_term(0)}),
    Hypothesis("the activation is missing", on(_ACTIVATIONS, _passed_on)),
    *(
        Hypothesis(f"the activation is {name}", on(_ACTIVATIONS, _activated(getattr(F, function), function)))
        for name, function in (("ReLU", "relu"), ("GELU", "gelu"), ("SiLU", "silu"), ("tanh", "tanh"))
    ),
    Hypothesis("the activation is ReLU", {"rnn_tanh": lambda call: torch.rnn_relu(*call.args, **call.kwargs)}),
    Hypothesis("the activation is tanh", {"rnn_relu": lambda call: torch.rnn_tanh(*call.args, **call.kwargs)}),
    Hypothesis(
        "a gate is detached (no gradient goes through it)",
        {
            **on(("sigmoid", "hardsigmoid", "softmax", "tanh"), lambda call: call.plain().detach()),
            "silu": lambda call: call.x * torch.sigmoid(call.x).detach(),
        },
    ),
    Hypothesis("ReLU is the other one of ReLU and ReLU6", on(("relu", "relu6", "hardtanh"), _other_relu)),
    Hypothesis("the parts of a concatenation are in reverse order", on(CONCATENATIONS, _reversed_parts)),
    Hypothesis("the parts are interleaved instead of concatenated", on(CONCATENATIONS, interleaved_parts)),
    Hypothesis("the indices are shifted by one (too small)", {"embedding": _embedding(1)}),
    Hypothesis("the indices are shifted by one (too large)", {"embedding": _embedding(-1)}),
    Hypothesis("the embedding is scaled by sqrt(d)", {"embedding": _scaled_embedding(0.5)}),
)
