"""Faults in reading a weight: transposed, flipped, reinterpreted, its parts in another order, or left out."""

from collections.abc import Callable
from typing import Any

import torch

from eca_multi.parity.mutants.mode import ANY, Call, Change

from .hypothesis import Hypothesis, is_weight, on, with_argument

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_ALL = (*CONVOLUTIONS, *TRANSPOSED)
_HAVE_BIAS = (*_ALL, "linear", "layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm")
_PRODUCTS = ("matmul", "mm", "bmm")
Way = Callable[[torch.Tensor], torch.Tensor | None]


def _weight(way: Way) -> Change:
    """Change the second argument, the weight, where `way` has an answer."""

    def change(call: Call) -> Any:
        weight = call.argument(1, "weight")
        other = way(weight) if isinstance(weight, torch.Tensor) else None
        return NotImplemented if other is None else with_argument(call, 1, "weight", other)

    return change


def _factor(way: Way) -> Change:
    """Change the factors of a matrix product or an einsum that are trained weights."""

    def changed(value: Any) -> Any:
        other = way(value) if is_weight(value) else None
        return value if other is None else other

    def change(call: Call) -> Any:
        args = tuple(changed(value) for value in call.args)
        if all(a is b for a, b in zip(args, call.args, strict=True)):
            return NotImplemented
        return call.func(*args, **call.kwargs)

    return change


def _flipped(weight: torch.Tensor) -> torch.Tensor | None:
    axes = [axis for axis in range(2, weight.ndim) if weight.shape[axis] > 1]
    return weight.flip(axes) if axes else None


def _exchanged(first: int, second: int) -> Way:
    def way(weight: torch.Tensor) -> torch.Tensor | None:
        if (weight.ndim < 4 and first == -2) or weight.shape[first] != weight.shape[second] or weight.shape[first] == 1:
            return None
        return weight.transpose(first, second)

    return way


def _reinterpreted(weight: torch.Tensor) -> torch.Tensor | None:
    """Read the memory in the order of channels last, (*S, in, out), as if it had been transposed."""
    if weight.ndim < 2 or sum(size > 1 for size in weight.shape) < 2:
        return None
    if weight.shape[0] == weight.shape[1] and weight.numel() == weight.shape[0] ** 2:
        return None  # this is the transposed one
    last = (*weight.shape[2:], weight.shape[1], weight.shape[0])
    return weight.reshape(last).permute(*reversed(range(len(last) - 2, len(last))), *range(len(last) - 2))


def _interleaved_weight(call: Call) -> Any:
    """Read the output channels of a grouped convolution position by position instead of group by group."""
    groups, weight = call.argument(6, "groups", 1), call.argument(1, "weight")
    if groups < 2 or weight.shape[0] == groups:
        return NotImplemented
    other = weight.unflatten(0, (-1, groups)).transpose(0, 1).flatten(0, 1)
    return with_argument(call, 1, "weight", other)


def _interleaved_input(call: Call) -> Any:
    groups = call.argument(6, "groups", 1)
    if groups < 2 or call.x.shape[1] == groups:
        return NotImplemented
    return call.on(call.x.unflatten(1, (-1, groups)).transpose(1, 2).flatten(1, 2))


def _interleaved_output(call: Call) -> Any:
    groups, weight = call.argument(6, "groups", 1), call.argument(1, "weight")
    if groups < 2 or weight.shape[0] == groups:
        return NotImplemented
    return call.plain().unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _reversed_vector(call: Call) -> Any:
    """Reverse a weight of one axis, wherever an operation reads it: a kernel that the layer applies by hand."""

    def reversed_(value: Any) -> Any:
        axes = [axis for axis, size in enumerate(value.shape) if size > 1] if is_weight(value) else []
        return value.flip(axes) if len(axes) == 1 else value

    args = tuple(map(reversed_, call.args))
    if call.name in _HAVE_BIAS or all(a is b for a, b in zip(args, call.args, strict=True)):
        return NotImplemented
    return call.func(*args, **call.kwargs)


def _without(index: int, name: str) -> Change:
    def change(call: Call) -> Any:
        return NotImplemented if call.argument(index, name) is None else with_argument(call, index, name, None)

    return change


def _doubled(call: Call) -> Any:
    bias = call.argument(2, "bias")
    return NotImplemented if bias is None else with_argument(call, 2, "bias", 2 * bias)


def _one_more(index: int) -> Change:
    """Take 1 + weight, whose weight starts at zero."""

    def change(call: Call) -> Any:
        weight = call.argument(index, "weight")
        return NotImplemented if weight is None else with_argument(call, index, "weight", 1 + weight)

    return change


def _scale_and_bias(index: int) -> Change:
    def change(call: Call) -> Any:
        weight, bias = call.argument(index, "weight"), call.argument(index + 1, "bias")
        if weight is None or bias is None:
            return NotImplemented
        if len(call.args) > index + 1:
            return call.func(*call.args[:index], bias, weight, *call.args[index + 2 :], **call.kwargs)
        return call.func(*call.args, **{**call.kwargs, "weight": bias, "bias": weight})

    return change


def _plain_sum(call: Call) -> Any:
    """Leave out a trained term: x + b gives x."""
    if len(call.args) < 2:
        return NotImplemented
    a, b = call.args[:2]
    data, term = (b, a) if is_weight(a) else (a, b)
    fits = is_weight(term) and isinstance(data, torch.Tensor) and not is_weight(data)
    return data.expand(torch.broadcast_shapes(a.shape, b.shape)) + 0.0 if fits else NotImplemented


WEIGHTS = (
    Hypothesis("kernel is flipped", on(_ALL, _weight(_flipped))),
    Hypothesis("kernel is reversed", {ANY: _reversed_vector}),
    Hypothesis("kernel is transposed (height and width exchanged)", on(_ALL, _weight(_exchanged(-2, -1)))),
    *(
        Hypothesis(
            f"kernel is transposed (axes {2 + first} and {2 + second} exchanged)",
            {name: _weight(_exchanged(first - 3, second - 3)) for name in ("conv3d", "conv_transpose3d")},
        )
        for first, second in ((0, 1), (0, 2))
    ),
    Hypothesis("kernel is transposed (inputs and outputs exchanged)", on(_ALL, _weight(_exchanged(0, 1)))),
    Hypothesis(
        "weight is transposed",
        {"linear": _weight(_exchanged(0, 1)), **on((*_PRODUCTS, "einsum"), _factor(_exchanged(0, 1)))},
    ),
    Hypothesis(
        "weight is reinterpreted instead of transposed",
        {**on((*CONVOLUTIONS, "linear"), _weight(_reinterpreted)), **on(_PRODUCTS, _factor(_reinterpreted))},
    ),
    Hypothesis("the kernel's groups are interleaved", on(CONVOLUTIONS, _interleaved_weight)),
    Hypothesis("the input channels of the groups are interleaved", on(CONVOLUTIONS, _interleaved_input)),
    Hypothesis("the output channels of the groups are interleaved", on(CONVOLUTIONS, _interleaved_output)),
    Hypothesis(
        "bias is missing",
        {
            **on((*_ALL, "linear"), _without(2, "bias")),
            **on(("layer_norm", "group_norm"), _without(3, "bias")),
            **on(("batch_norm", "instance_norm"), _without(2, "bias")),
            "bilinear": _without(3, "bias"),
            "add": _plain_sum,
        },
    ),
    Hypothesis(
        "scale and bias of the norm are exchanged",
        {
            **on(("layer_norm", "group_norm"), _scale_and_bias(2)),
            **on(("batch_norm", "instance_norm"), _scale_and_bias(1)),
        },
    ),
    Hypothesis("bias comes twice", on((*_ALL, "linear"), _doubled)),
    Hypothesis(
        "the norm's scale is 1 + scale",
        {
            **on(("layer_norm", "group_norm", "rms_norm"), _one_more(2)),
            **on(("batch_norm", "instance_norm"), _one_more(1)),
        },
    ),
    Hypothesis(
        "the norm's scale is missing",
        {
            **on(("layer_norm", "group_norm", "rms_norm"), _without(2, "weight")),
            **on(("batch_norm", "instance_norm"), _without(1, "weight")),
        },
    ),
)
