"""Faults in recurrent layers: the order of gates, the place of the reset, biases, and the direction of time."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import torch

from eca_multi.parity.mutants.mode import Call, Change

from .hypothesis import Hypothesis, on

GATES = {"lstm": "ifgo", "lstm_cell": "ifgo", "gru": "rzn", "gru_cell": "rzn"}
_SEQUENCES = ("lstm", "gru")
_CELLS = ("lstm_cell", "gru_cell")
_PLAIN = ("rnn_tanh", "rnn_relu")
_RUNS = (*_SEQUENCES, *_PLAIN)
Way = Callable[[torch.Tensor], torch.Tensor]


def _changed(ways: Callable[[int, torch.Tensor], torch.Tensor]) -> Change:
    """Change the weights of a call: `ways` gets 0 w_ih, 1 w_hh, 2 b_ih, 3 b_hh."""

    def change(call: Call) -> Any:
        if call.name in _CELLS:
            weights = [ways(i, w) if w is not None else None for i, w in enumerate(call.args[2:6])]
            return call.func(*call.args[:2], *weights, **call.kwargs)
        if not isinstance(call.args[2], list | tuple):  # a packed sequence
            packed = [ways(i % _count(call), w) for i, w in enumerate(call.args[3])]
            return call.func(*call.args[:3], packed, *call.args[4:], **call.kwargs)
        weights = [ways(i % _count(call), w) for i, w in enumerate(call.args[2])]
        return call.func(*call.args[:2], weights, *call.args[3:], **call.kwargs)

    return change


def _count(call: Call) -> int:
    return 4 if (call.args[3] if isinstance(call.args[2], list | tuple) else call.args[4]) else 2


def _by_gate(gates: int, way: Callable[[list[torch.Tensor]], list[torch.Tensor]], only: tuple[int, ...]) -> Change:
    def ways(index: int, weight: torch.Tensor) -> torch.Tensor:
        return torch.cat(way(list(weight.chunk(gates)))) if index in only else weight

    return _changed(ways)


def _orders() -> list[Hypothesis]:
    found = []
    for names, gates in ((("lstm", "lstm_cell"), "ifgo"), (("gru", "gru_cell"), "rzn")):
        for order in list(permutations(range(len(gates))))[1:]:
            said = " ".join(gates[i] for i in order)

            def reorder(parts: list[torch.Tensor], order: tuple[int, ...] = order) -> list[torch.Tensor]:
                return [parts[i] for i in order]

            says = f"gates are in the order {said} instead of {' '.join(gates)}"
            found.append(Hypothesis(says, on(names, _by_gate(len(gates), reorder, (0, 1, 2, 3)))))
    return found


def _zeroed(index: int, gates: str = "") -> Change:
    def ways(i: int, weight: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(weight) if i == index else weight

    return _changed(ways)


def _transposed(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    return [part.T for part in parts]


def _forget_bias(call: Call) -> Any:
    """Add one to the bias of the forget gate, as Keras does when it initialises."""

    def more(parts: list[torch.Tensor]) -> list[torch.Tensor]:
        return [parts[0], parts[1] + 1, *parts[2:]]

    return _by_gate(4, more, (2,))(call)


def _biases_exchanged(call: Call) -> Any:
    if call.name in _CELLS:
        return (
            call.func(*call.args[:4], call.args[5], call.args[4], **call.kwargs) if call.args[4:6] else NotImplemented
        )
    place = 2 if isinstance(call.args[2], list | tuple) else 3  # of a packed sequence
    flat = call.args[place]
    if _count(call) != 4:
        return NotImplemented
    other = [flat[i + (0, 0, 1, -1)[i % 4]] for i in range(len(flat))]
    return call.func(*call.args[:place], other, *call.args[place + 1 :], **call.kwargs)


def _weights_of_directions(call: Call) -> Any:
    """Give the forward direction the weights of the backward one, and the other way round."""
    if _time_axis(call) is None:
        return NotImplemented
    per, flat = _count(call), call.args[2]
    layers = [flat[i : i + 2 * per] for i in range(0, len(flat), 2 * per)]
    other = [weight for layer in layers for weight in (*layer[per:], *layer[:per])]
    return call.func(*call.args[:2], other, *call.args[3:], **call.kwargs)


def _written(step: Callable[..., Any]) -> Change:
    """Run a GRU or an LSTM written out, with another step; the state of an LSTM is (h, c)."""

    def change(call: Call) -> Any:
        if call.name in _CELLS:
            x, h, w_ih, w_hh, *biases = call.args
            b_ih, b_hh = biases if biases and biases[0] is not None else (0.0, 0.0)
            return step(x, h, w_ih, w_hh, b_ih, b_hh)
        if not isinstance(call.args[2], list | tuple):
            return NotImplemented
        x, first, flat, bias, layers, _, _, both, batch_first = call.args
        x = x.transpose(0, 1) if batch_first else x
        per, ways = (4 if bias else 2), (2 if both else 1)
        last: list[Any] = []  # of each direction: a tensor, or a pair of tensors
        for layer in range(layers):
            outputs = []
            for way in range(ways):
                number = layer * ways + way
                weights = [*flat[number * per : (number + 1) * per], *([] if bias else [0.0, 0.0])]
                state = tuple(s[number] for s in first) if call.name == "lstm" else first[number]
                states: list[torch.Tensor] = []
                for t in range(len(x)) if way == 0 else reversed(range(len(x))):
                    state = step(x[t], state, *weights)
                    states.append(state[0] if call.name == "lstm" else state)
                last.append(state)
                outputs.append(torch.stack(states if way == 0 else states[::-1]))
            x = torch.cat(outputs, -1)
        y = x.transpose(0, 1) if batch_first else x
        return (y, *map(torch.stack, zip(*last, strict=True))) if call.name == "lstm" else (y, torch.stack(last))

    return change


def _hard(clip: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Replace the sigmoid of all gates."""

    def lstm(x: Any, state: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
        h, c = state
        i, f, g, o = (x @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, -1)
        c = clip(f) * c + clip(i) * torch.tanh(g)
        return clip(o) * torch.tanh(c), c

    def gru(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
        (xr, xz, xn), (hr, hz, hn) = _parts(x, h, w_ih, w_hh, b_ih, b_hh)
        update = clip(xz + hz)
        return (1 - update) * torch.tanh(xn + clip(xr + hr) * hn) + update * h

    return lambda call: _written(lstm if call.name.startswith("lstm") else gru)(call)


def _parts(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> tuple[list[Any], list[Any]]:
    return list((x @ w_ih.T + b_ih).chunk(3, -1)), list((h @ w_hh.T + b_hh).chunk(3, -1))


def _reset_before(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    """Reset the state before the recurrent product: Keras's reset_after=False, and the paper's equation."""
    (xr, xz, xn), (hr, hz, _) = _parts(x, h, w_ih, w_hh, b_ih, b_hh)
    reset, update = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    bias = b_hh if isinstance(b_hh, float) else b_hh.chunk(3)[2]
    new = torch.tanh(xn + (reset * h) @ w_hh.chunk(3)[2].T + bias)
    return (1 - update) * new + update * h


def _other_update(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    """Exchange what the update gate keeps and what it takes."""
    (xr, xz, xn), (hr, hz, hn) = _parts(x, h, w_ih, w_hh, b_ih, b_hh)
    update = torch.sigmoid(xz + hz)
    return update * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + (1 - update) * h


def _outside_bias(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    """Add the recurrent bias of the new state outside of the reset."""
    (xr, xz, xn), (hr, hz, hn) = _parts(x, h, w_ih, w_hh, b_ih, b_hh)
    bias = 0.0 if isinstance(b_hh, float) else b_hh.chunk(3)[2]
    update = torch.sigmoid(xz + hz)
    return (1 - update) * torch.tanh(xn + torch.sigmoid(xr + hr) * (hn - bias) + bias) + update * h


def _time_axis(call: Call) -> int | None:
    if not isinstance(call.args[2], list | tuple) or not call.args[7]:
        return None
    return 1 if call.args[8] else 0


def _backwards_left(call: Call) -> Any:
    """Leave the outputs of the backward direction in the order of their computation."""
    axis = _time_axis(call)
    if axis is None:
        return NotImplemented
    output, *rest = call.plain()
    forward, backward = output.chunk(2, -1)
    return torch.cat([forward, backward.flip(axis)], -1), *rest


def _directions_exchanged(call: Call) -> Any:
    if _time_axis(call) is None:
        return NotImplemented
    output, *rest = call.plain()
    forward, backward = output.chunk(2, -1)
    return torch.cat([backward, forward], -1), *rest


def _reversed(call: Call) -> Any:
    if not isinstance(call.args[2], list | tuple):
        return NotImplemented
    output, *rest = call.func(call.x.flip(1 if call.args[8] else 0), *call.args[1:], **call.kwargs)
    return output, *rest


def _states_exchanged(call: Call) -> Any:
    """Return the cell state in the place of the hidden one."""
    output, h, c = call.plain()
    return output, c, h


def _first_states_exchanged(call: Call) -> Any:
    if not isinstance(call.args[2], list | tuple):
        return NotImplemented
    h, c = call.args[1]
    return call.func(call.x, (c, h), *call.args[2:], **call.kwargs) if h.shape == c.shape else NotImplemented


_ALL = (*_SEQUENCES, *_CELLS)
RECURRENT = (
    *_orders(),
    Hypothesis(
        "reset_after is the other one (reset before the recurrent product)",
        on(("gru", "gru_cell"), _written(_reset_before)),
    ),
    Hypothesis("the update gate keeps what it should take", on(("gru", "gru_cell"), _written(_other_update))),
    Hypothesis("the recurrent bias is outside of the reset", on(("gru", "gru_cell"), _written(_outside_bias))),
    Hypothesis("the input bias is missing", on((*_ALL, *_PLAIN), _zeroed(2))),
    Hypothesis("the recurrent bias is missing", on((*_ALL, *_PLAIN), _zeroed(3))),
    Hypothesis("the input bias and the recurrent bias are exchanged", on(("gru", "gru_cell"), _biases_exchanged)),
    *(
        Hypothesis(f"the activation of the gates is the hard sigmoid {says}", on(_ALL, _hard(clip)))
        for says, clip in (
            ("clip(x / 6 + 0.5)", torch.nn.functional.hardsigmoid),
            ("clip(0.2 x + 0.5)", lambda x: (0.2 * x + 0.5).clamp(0, 1)),
        )
    ),
    Hypothesis(
        "the recurrent weight is transposed, gate by gate",
        {
            **on(("lstm", "lstm_cell"), _by_gate(4, _transposed, (1,))),
            **on(("gru", "gru_cell"), _by_gate(3, _transposed, (1,))),
            **on(_PLAIN, _by_gate(1, _transposed, (1,))),
        },
    ),
    Hypothesis("the bias of the forget gate is one more", on(("lstm", "lstm_cell"), _forget_bias)),
    Hypothesis("the outputs of the backward direction are in reverse order", on(_RUNS, _backwards_left)),
    Hypothesis("the two directions are exchanged", on(_RUNS, _directions_exchanged)),
    Hypothesis("the weights of the two directions are exchanged", on(_RUNS, _weights_of_directions)),
    Hypothesis("the hidden state and the cell state are returned in the other order", {"lstm": _states_exchanged}),
    Hypothesis("the hidden state and the cell state are given in the other order", {"lstm": _first_states_exchanged}),
    Hypothesis("the sequence runs backwards", on(_RUNS, _reversed)),
)
