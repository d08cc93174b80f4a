"""Faults in gates: tables of operation -> its change."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from .mode import Call, Change


def _on_x(function: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda call: function(call.x)


def _other_gelu(call: Call) -> Any:
    return F.gelu(call.x, approximate="none" if call.kwargs.get("approximate") == "tanh" else "tanh")


def _gated_linear(gate: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def change(call: Call) -> Any:
        value, logits = call.x.chunk(2, call.argument(1, "dim", -1))
        return value * gate(logits)

    return change


# Each gate becomes a similar function, which is often confused with it.
OTHER_GATE: dict[str, Change] = {
    "sigmoid": _on_x(F.hardsigmoid),
    "special_expit": _on_x(F.hardsigmoid),
    "hardsigmoid": _on_x(torch.sigmoid),
    "relu6": _on_x(lambda x: 6 * torch.sigmoid(x - 3)),  # the hard sigmoid is relu6(z + 3) / 6
    "tanh": _on_x(F.hardtanh),
    "hardtanh": _on_x(torch.tanh),
    "relu": _on_x(F.leaky_relu),
    "leaky_relu": _on_x(F.relu),
    "elu": _on_x(F.relu),
    "softplus": _on_x(F.relu),
    "silu": _on_x(F.hardswish),
    "hardswish": _on_x(F.silu),
    "mish": _on_x(F.silu),
    "gelu": _other_gelu,
    "glu": _gated_linear(F.hardsigmoid),
    **dict.fromkeys(("softmax", "log_softmax"), lambda call: call.on(call.x / 2)),
}


def _held(gate: torch.Tensor) -> torch.Tensor:
    """Cut a gate off from its gradient, but for a zero that keeps gradients defined."""
    return gate.detach() + 0 * gate


_BOUNDED = ("sigmoid", "special_expit", "hardsigmoid", "relu6", "tanh", "hardtanh", "softmax", "log_softmax")
DETACHED_GATE: dict[str, Change] = {
    **dict.fromkeys(_BOUNDED, lambda call: _held(call.plain())),
    "silu": _on_x(lambda x: x * _held(torch.sigmoid(x))),
    "glu": _gated_linear(lambda logits: _held(torch.sigmoid(logits))),
}
