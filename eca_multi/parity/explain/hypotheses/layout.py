"""Faults in the order of axes: memory read in another order instead of transposed."""

from typing import Any

import torch

from eca_multi.parity.mutants.mode import ANY, Call

from .hypothesis import Hypothesis, is_input, on


def _permuted(call: Call) -> list[int] | None:
    """Return the order of axes that a call of permute, transpose or movedim gives."""
    x = call.x
    if not x.is_floating_point():
        return None
    if call.name == "permute":
        order = call.args[1] if isinstance(call.args[1], list | tuple) else call.args[1:]
        return [axis % x.ndim for axis in order]
    first, second = call.args[1] % x.ndim, call.args[2] % x.ndim
    order = list(range(x.ndim))
    order[first], order[second] = order[second], order[first]
    return order


def _reshaped(call: Call) -> Any:
    """Reshape where the layer permutes."""
    order = _permuted(call)
    if order is None or order == list(range(call.x.ndim)):
        return NotImplemented
    return call.x.reshape([call.x.shape[axis] for axis in order])


def _flattened_channels_last(call: Call) -> Any:
    """Flatten (N, C, *S) in the order (N, *S, C)."""
    x = call.x
    if x.ndim < 3 or not x.is_floating_point():
        return NotImplemented
    result = call.plain()
    if tuple(result.shape) != (x.shape[0], x[0].numel()):
        return NotImplemented
    return x.movedim(1, -1).reshape(result.shape)


def _unflattened_channels_last(call: Call) -> Any:
    """Read (N, M) as (N, *S, C) on the way to (N, C, *S)."""
    x, result = call.x, call.plain()
    if x.ndim != 2 or result.ndim < 3 or not x.is_floating_point() or result.shape[0] != x.shape[0]:
        return NotImplemented
    return x.reshape(result.shape[0], *result.shape[2:], result.shape[1]).movedim(-1, 1)


def _input(last_to_first: bool) -> Any:
    """Read the memory of an input in the other order of its channels."""

    def reinterpreted(x: Any) -> Any:
        if not is_input(x) or x.ndim < 3:
            return x
        if last_to_first:  # an array (N, *S, C) read as (N, C, *S)
            return x.movedim(1, -1).reshape(x.shape)
        return x.movedim(-1, 1).reshape(x.shape)

    def change(call: Call) -> Any:
        args = tuple(map(reinterpreted, call.args))
        if all(a is b for a, b in zip(args, call.args, strict=True)):
            return NotImplemented
        result = call.func(*args, **call.kwargs)
        return result if isinstance(result, torch.Tensor | tuple) else NotImplemented

    return change


def _height_and_width(call: Call) -> Any:
    """Exchange the last two axes of an input of images; a size that differs is no place for the fault."""
    args = tuple(
        x.transpose(-1, -2) if is_input(x) and x.ndim > 3 and x.shape[-1] == x.shape[-2] else x for x in call.args
    )
    if all(a is b for a, b in zip(args, call.args, strict=True)):
        return NotImplemented
    return call.func(*args, **call.kwargs)


_FLATTEN = ("flatten", "view", "reshape")
LAYOUT = (
    Hypothesis("the input's layout is reinterpreted instead of transposed", {ANY: _input(True)}),
    Hypothesis("the input's layout is reinterpreted instead of transposed, from channels first", {ANY: _input(False)}),
    Hypothesis("the input's height and width are exchanged", {ANY: _height_and_width}),
    Hypothesis("an array is reshaped instead of transposed", on(("permute", "transpose"), _reshaped)),
    Hypothesis("the map is flattened with its channels last", on(_FLATTEN, _flattened_channels_last)),
    Hypothesis(
        "the map is unflattened with its channels last", on((*_FLATTEN, "unflatten"), _unflattened_channels_last)
    ),
)
