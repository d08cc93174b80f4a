"""Faults in recurrent layers, as a port has them: the order of the gates, and the place of the reset gate."""

from collections.abc import Sequence
from typing import Any

import torch

from .mode import Call, Change, carries_data

Exchange = tuple[int, int]
LSTM, GRU = 4, 3  # gates: i f g o, and r z n
_OF_LSTM: Exchange = (2, 3)  # i f o g
_OF_GRU: Exchange = (0, 1)  # z r n
_MOST_PARTS = 4


def _exchanged(parts: Sequence[torch.Tensor], places: Exchange) -> list[torch.Tensor]:
    parts, (first, second) = list(parts), places
    parts[first], parts[second] = parts[second], parts[first]
    return parts


def _reordered(parameter: torch.Tensor, gates: int, places: Exchange) -> torch.Tensor:
    return torch.cat(_exchanged(parameter.chunk(gates), places))


def _layer(gates: int, places: Exchange) -> Change:
    """Read the weights of a whole layer, which torch gives as a list, in another order of the gates."""

    def change(call: Call) -> Any:
        index = next((i for i, argument in enumerate(call.args) if isinstance(argument, list)), None)
        if index is None:
            return NotImplemented
        rows = len(call.args[index][0])  # of the first weight: the gates times the units; a projection has others
        read = [_reordered(w, gates, places) if len(w) == rows else w for w in call.args[index]]
        return call.func(*call.args[:index], read, *call.args[index + 1 :], **call.kwargs)

    return change


def _cell(gates: int, places: Exchange) -> Change:
    def change(call: Call) -> Any:
        x, state, *parameters = call.args
        return call.func(x, state, *(p if p is None else _reordered(p, gates, places) for p in parameters))

    return change


def _parts(call: Call) -> Any:
    """Exchange the first two parts: of query, key and value, of a layer's value and gate, of four gates."""
    if not carries_data(call.x):
        return NotImplemented
    parts = call.plain()
    if not 2 <= len(parts) <= _MOST_PARTS or len({part.shape for part in parts}) > 1:
        return NotImplemented
    return tuple(_exchanged(parts, (0, 1)))


def _reset_before(
    x: torch.Tensor, h: torch.Tensor, w_x: torch.Tensor, w_h: torch.Tensor, b_x: Any = None, b_h: Any = None
) -> torch.Tensor:
    """Compute one step of a GRU that applies the reset gate before the product: W(r * h) for r * (W h)."""
    (r_x, z_x, n_x), (r_w, z_w, n_w) = torch.nn.functional.linear(x, w_x, b_x).chunk(GRU, -1), w_h.chunk(GRU)
    r_b, z_b, n_b = (None,) * GRU if b_h is None else b_h.chunk(GRU)
    reset = torch.sigmoid(r_x + torch.nn.functional.linear(h, r_w, r_b))
    update = torch.sigmoid(z_x + torch.nn.functional.linear(h, z_w, z_b))
    new = torch.tanh(n_x + torch.nn.functional.linear(reset * h, n_w, n_b))
    return (1 - update) * new + update * h


def _layer_reset_before(call: Call) -> Any:
    if len(call.args) != 9 or isinstance(call.args[2], torch.Tensor):  # sequences packed by length
        return NotImplemented
    x, states, parameters, has_biases, layers, dropout, training, is_both_ways, batch_first = call.args
    if dropout and training:
        return NotImplemented
    count, directions = 4 if has_biases else 2, 2 if is_both_ways else 1
    steps, last = (x.transpose(0, 1) if batch_first else x), []
    for layer in range(layers):
        ways = []
        for direction in range(directions):
            place = layer * directions + direction
            h, outputs = states[place], []
            for step in steps.flip(0) if direction else steps:
                h = _reset_before(step, h, *parameters[count * place : count * (place + 1)])
                outputs.append(h)
            way = torch.stack(outputs)
            ways.append(way.flip(0) if direction else way)
            last.append(h)
        steps = torch.cat(ways, -1)
    return (steps.transpose(0, 1) if batch_first else steps), torch.stack(last)


GATE_ORDER: dict[str, Change] = {
    "lstm": _layer(LSTM, _OF_LSTM),
    "gru": _layer(GRU, _OF_GRU),
    "lstm_cell": _cell(LSTM, _OF_LSTM),
    "gru_cell": _cell(GRU, _OF_GRU),
}
PART_ORDER: dict[str, Change] = dict.fromkeys(("chunk", "split", "tensor_split", "unbind"), _parts)
RESET_GATE: dict[str, Change] = {
    "gru": _layer_reset_before,
    "gru_cell": lambda call: _reset_before(*call.args),
}
