"""Faults in normalisation: eps, momentum, n against n - 1, the statistics and the axes."""

from dataclasses import replace
from typing import Any

import torch

from eca_multi.parity.mutants.mode import Call, Change

from .hypothesis import Hypothesis, numbers, on, setting, with_argument

EPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12, 0.0)
_LARGEST_EPS = 0.02  # of a number that is added to data; a larger one is no eps
_NORMS = ("batch_norm", "layer_norm", "group_norm")
_PLACE_OF_EPS = {"layer_norm": 4, "rms_norm": 3, "group_norm": 4, "batch_norm": 7, "instance_norm": 7}


def _eps(value: float) -> dict[str, Change]:
    def added(call: Call) -> Any:
        for index, number in numbers(call):
            if 0 < number <= _LARGEST_EPS and number != value:
                return with_argument(call, index, "other", value)
        return NotImplemented

    def clamped(call: Call) -> Any:
        least = call.argument(1, "min")
        fits = isinstance(least, float) and 0 < least <= _LARGEST_EPS and least != value
        return with_argument(call, 1, "min", value) if fits else NotImplemented

    norms = {name: setting(place, "eps", value) for name, place in _PLACE_OF_EPS.items()}
    return {**norms, "add": added, **on(("clamp_min", "clamp"), clamped)}


def _moments(call: Call) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]] | None:
    """Return the mean and variance over the batch of a batch norm in training; None for one that is not."""
    if not call.argument(5, "training") or call.argument(3, "running_mean") is None:
        return None
    axes = tuple(i for i in range(call.x.ndim) if i != 1)
    return call.x.mean(axes), call.x.var(axes, correction=0), axes


def _biased(call: Call) -> Any:
    """Update the running variance by the variance over n, where PyTorch takes n - 1."""
    moments = _moments(call)
    if moments is None:
        return NotImplemented
    running, momentum = call.argument(4, "running_var"), call.argument(6, "momentum")
    before = running.clone()
    result = call.plain()
    with torch.no_grad():
        running.copy_((1 - momentum) * before + momentum * moments[1])
    return result


def _unbiased(call: Call) -> Any:
    """Normalise by the standard deviation over n - 1."""
    if call.name == "batch_norm":
        if not call.argument(5, "training"):
            return NotImplemented
        axes, shape = tuple(i for i in range(call.x.ndim) if i != 1), (-1, *[1] * (call.x.ndim - 2))
        call.plain()  # for the running statistics
        return _written_out(call, call.x, axes, call.argument(7, "eps"), (1, 2), shape)
    if call.name == "layer_norm":
        axes = tuple(range(-len(call.args[1]), 0))
        return _written_out(call, call.x, axes, call.argument(4, "eps", 1e-5), (2, 3), None)
    x, groups = call.x, call.args[1]
    shape = (-1, *[1] * (x.ndim - 2))
    grouped = x.reshape(x.shape[0], groups, -1)
    return _written_out(call, grouped, (2,), call.argument(4, "eps", 1e-5), (2, 3), shape)


def _written_out(
    call: Call,
    x: torch.Tensor,
    axes: tuple[int, ...],
    eps: float,
    places: tuple[int, int],
    shape: tuple[int, ...] | None,
    correction: int = 1,
    outside: bool = False,
) -> torch.Tensor:
    variance = x.var(axes, correction=correction, keepdim=True)
    spread = variance.sqrt() + eps if outside else (variance + eps).sqrt()
    normal = ((x - x.mean(axes, keepdim=True)) / spread).reshape(call.x.shape)
    weight, bias = call.argument(places[0], "weight"), call.argument(places[1], "bias")
    weight, bias = (p if p is None or shape is None else p.reshape(shape) for p in (weight, bias))
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def _corrected(call: Call) -> Any:
    """Exchange n and n - 1 in a variance or standard deviation."""
    correction = call.kwargs.get("correction", 1 if call.kwargs.get("unbiased", True) else 0)
    axes = call.argument(1, "dim")
    if isinstance(axes, bool):  # torch.var(x, unbiased)
        correction, axes = int(axes), None
    if len(call.args) > 2:
        correction = int(call.args[2])
    keep = call.kwargs.get("keepdim", False)
    return call.func(call.x, axes, correction=0 if correction else 1, keepdim=keep)


def _outside(value: float) -> Change:
    """Give a norm another eps, outside of the root."""

    def change(call: Call) -> Any:
        place = _PLACE_OF_EPS[call.name]
        args, kwargs = list(call.args), dict(call.kwargs)
        if len(args) > place:
            args[place] = value
        else:
            kwargs["eps"] = value
        return _eps_outside(replace(call, args=tuple(args), kwargs=kwargs))

    return change


def _eps_outside(call: Call) -> Any:
    """Add eps to the standard deviation."""
    x = call.x
    if call.name == "layer_norm":
        axes = tuple(range(-len(call.args[1]), 0))
        return _written_out(call, x, axes, call.argument(4, "eps", 1e-5), (2, 3), None, 0, outside=True)
    shape = (-1, *[1] * (x.ndim - 2))
    if call.name == "group_norm":
        grouped = x.reshape(x.shape[0], call.args[1], -1)
        return _written_out(call, grouped, (2,), call.argument(4, "eps", 1e-5), (2, 3), shape, 0, outside=True)
    if call.name == "rms_norm":
        axes, weight = tuple(range(-len(call.args[1]), 0)), call.argument(2, "weight")
        eps = call.argument(3, "eps")
        normal = x / ((x * x).mean(axes, keepdim=True).sqrt() + (torch.finfo(x.dtype).eps if eps is None else eps))
        return normal if weight is None else normal * weight
    if not call.argument(5, "training"):
        return NotImplemented
    call.plain()  # for the running statistics
    axes = tuple(i for i in range(x.ndim) if i != 1)
    return _written_out(call, x, axes, call.argument(7, "eps"), (1, 2), shape, 0, outside=True)


def _layer_norm_over(axes: str) -> Change:
    def change(call: Call) -> Any:
        x = call.x
        if len(call.args[1]) != 1 or x.ndim < 3:
            return NotImplemented
        over = tuple(range(1, x.ndim)) if axes == "all" else (1,)
        return _written_out(call, x, over, call.argument(4, "eps", 1e-5), (2, 3), None, correction=0)

    return change


def _interleaved_groups(call: Call) -> Any:
    x, groups = call.x, call.args[1]
    shape = (-1, *[1] * (x.ndim - 2))
    if groups in (1, x.shape[1]):
        return NotImplemented
    eps = call.argument(4, "eps", 1e-5)
    mixed = x.reshape(x.shape[0], -1, groups, *x.shape[2:])
    over = tuple(i for i in range(mixed.ndim) if i not in (0, 2))
    return _written_out(call, mixed, over, eps, (2, 3), shape, correction=0)


def _other_groups(call: Call) -> Any:
    return with_argument(call, 1, "num_groups", call.x.shape[1] // call.args[1])


def _groups(number: int) -> Change:
    def change(call: Call) -> Any:
        channels = call.x.shape[1]
        fits = channels % number == 0 and number not in (call.args[1], channels // call.args[1])
        return with_argument(call, 1, "num_groups", number) if fits else NotImplemented

    return change


def _over_others(axes: str) -> Change:
    """Normalise an image over its channels at each position, or over all but the batch, as another norm does."""

    def change(call: Call) -> Any:
        x = call.x
        if x.ndim < 3 or (call.name == "batch_norm" and not call.argument(5, "training")):
            return NotImplemented
        if call.name == "batch_norm":
            call.plain()  # for the running statistics
        over = (1,) if axes == "channels" else tuple(range(1, x.ndim))
        shape = (-1, *[1] * (x.ndim - 2))
        return _written_out(call, x, over, call.argument(7, "eps"), (1, 2), shape, correction=0)

    return change


def _groups_by_position(call: Call) -> Any:
    """Normalise each position by itself, over the channels of its group."""
    x, groups = call.x, call.args[1]
    if x.ndim < 3:
        return NotImplemented
    grouped = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    shape = (-1, *[1] * (x.ndim - 2))
    return _written_out(call, grouped, (2,), call.argument(4, "eps", 1e-5), (2, 3), shape, correction=0)


def _complement(call: Call) -> Any:
    momentum = call.argument(6, "momentum")
    return setting(6, "momentum", 1 - momentum)(call) if _moments(call) is not None else NotImplemented


def _momentum(value: float) -> Change:
    def change(call: Call) -> Any:
        if _moments(call) is None or value in (call.argument(6, "momentum"), 1 - call.argument(6, "momentum")):
            return NotImplemented
        return setting(6, "momentum", value)(call)

    return change


def _own_statistics(call: Call) -> Any:
    """Exchange the statistics of the batch and the running ones."""
    if call.argument(3, "running_mean") is None:
        return NotImplemented
    if call.argument(5, "training"):
        return with_argument(call, 5, "training", False)
    running = [
        None if s is None else s.clone() for s in (call.argument(3, "running_mean"), call.argument(4, "running_var"))
    ]
    return call.func(*call.args[:3], *running, True, *call.args[6:], **call.kwargs)


def _centred(call: Call) -> Any:
    """Subtract the mean in an RMS norm."""
    axes = tuple(range(-len(call.args[1]), 0))
    return call.on(call.x - call.x.mean(axes, keepdim=True))


def _uncentred(call: Call) -> Any:
    """Leave the mean in a layer norm."""
    x, axes = call.x, tuple(range(-len(call.args[1]), 0))
    normal = x / ((x * x).mean(axes, keepdim=True) + call.argument(4, "eps", 1e-5)).sqrt()
    weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


NORMS = (
    *(Hypothesis(f"eps is {value:g}", _eps(value)) for value in EPS),
    Hypothesis("an eps is added outside of the root", on((*_NORMS, "rms_norm"), _eps_outside)),
    *(
        Hypothesis(f"an eps is added outside of the root, as {value:g}", on((*_NORMS, "rms_norm"), _outside(value)))
        for value in (1e-3, 1e-5, 1e-6)
    ),
    Hypothesis("momentum is its complement", {"batch_norm": _complement}),
    *(Hypothesis(f"momentum is {value:g}", {"batch_norm": _momentum(value)}) for value in (0.1, 0.01)),
    Hypothesis("the running variance is divided by n, not by n - 1", {"batch_norm": _biased}),
    Hypothesis("the variance is divided by n - 1, not by n", on(_NORMS, _unbiased)),
    Hypothesis("n and n - 1 are exchanged in the variance", on(("var", "std"), _corrected)),
    Hypothesis("batch statistics and running statistics are exchanged", {"batch_norm": _own_statistics}),
    Hypothesis("the norm is over all axes but the batch", {"layer_norm": _layer_norm_over("all")}),
    Hypothesis("the norm is over axis 1", {"layer_norm": _layer_norm_over("1")}),
    Hypothesis("the number of groups is that of the channels of a group", {"group_norm": _other_groups}),
    *(Hypothesis(f"the number of groups is {n}", {"group_norm": _groups(n)}) for n in (1, 2, 4, 8, 16, 32)),
    *(
        Hypothesis(f"the norm is over {says}", on(("instance_norm", "batch_norm"), _over_others(axes)))
        for says, axes in (
            ("the channels, the last axis of a layer norm", "channels"),
            ("all axes but the batch", "all"),
        )
    ),
    Hypothesis("the norm's groups are interleaved", {"group_norm": _interleaved_groups}),
    Hypothesis("the norm's groups are normalised position by position", {"group_norm": _groups_by_position}),
    Hypothesis("the RMS norm subtracts the mean", {"rms_norm": _centred}),
    Hypothesis("the layer norm does not subtract the mean", {"layer_norm": _uncentred}),
)
