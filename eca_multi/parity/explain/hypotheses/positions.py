"""Faults in positional encodings: the base, the first position, a sign, and halves against neighbours."""

from typing import Any

import torch

from eca_multi.parity.mutants.mode import Call, Change

from .composition import CONCATENATIONS, interleaved_parts
from .hypothesis import Hypothesis, on, with_argument


def _base(value: float) -> Change:
    def change(call: Call) -> Any:
        place = 1 if call.name == "__rpow__" else 0
        number = call.args[place]
        if not isinstance(number, int | float) or number < 100 or number == value:
            return NotImplemented
        return with_argument(call, place, "self", value)

    return change


def _moved(step: int) -> Change:
    def change(call: Call) -> Any:
        return call.plain() + step

    return change


def _negated(call: Call) -> Any:
    return -call.plain()


def _other_sign(call: Call) -> Any:
    first, second = call.args[:2]
    return first - second if call.name == "add" else first + second


def _neighbours(call: Call) -> Any:
    """Take every second element where the layer takes a half, and the other way round."""
    index = call.args[1]
    last = index[-1] if isinstance(index, tuple) and index else index
    if not isinstance(last, slice) or not isinstance(call.x, torch.Tensor) or call.x.shape[-1] % 2:
        return NotImplemented
    half = call.x.shape[-1] // 2
    others = {
        (None, half, None): slice(None, None, 2),
        (0, half, None): slice(None, None, 2),
        (half, None, None): slice(1, None, 2),
        (None, None, 2): slice(None, half),
        (0, None, 2): slice(None, half),
        (1, None, 2): slice(half, None),
    }
    other = others.get((last.start, last.stop, last.step))
    return NotImplemented if other is None else call.x[..., other]


def _pairs(call: Call) -> Any:
    pieces = call.plain()
    axis = call.argument(2, "dim", 0)
    if len(pieces) != 2 or pieces[0].shape != pieces[1].shape:
        return NotImplemented
    return tuple(call.x.unflatten(axis, (-1, 2)).unbind(axis if axis < 0 else axis + 1))


def _halves(call: Call) -> Any:
    """Merge pairs into one axis as halves."""
    x, result = call.x, call.plain()
    if x.ndim < 2 or x.shape[-1] != 2 or result.shape[-1] != 2 * x.shape[-2] or not x.is_floating_point():
        return NotImplemented
    return x.transpose(-1, -2).reshape(result.shape)


POSITIONS = (
    *(
        Hypothesis(f"the base is {value:g}", on(("pow", "__rpow__"), _base(value)))
        for value in (1e2, 1e3, 1e4, 1e5, 5e5, 1e6)
    ),
    Hypothesis("the positions are shifted by one (they begin at 1)", {"arange": _moved(1)}),
    Hypothesis("the positions are shifted by one (they begin at -1)", {"arange": _moved(-1)}),
    Hypothesis("the sign of the sine is the other one", {"sin": _negated}),
    Hypothesis("the sign of a term is the other one", on(("add", "sub"), _other_sign)),
    Hypothesis(
        "neighbours are paired instead of halves (interleaved), or halves instead of neighbours",
        {
            "__getitem__": _neighbours,
            "chunk": _pairs,
            **on(CONCATENATIONS, interleaved_parts),
            **on(("reshape", "view", "flatten"), _halves),
        },
    ),
)
