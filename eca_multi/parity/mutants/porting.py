"""Faults that a port has where two frameworks differ in a default or a convention: tables of operation -> its change.

Each fault is the right layer with another setting, so a case sees it only where the setting counts: eps beside a small
variance, the scale of attention where its softmax is neither uniform nor saturated.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from .mode import Call, Change
from .recurrent import GATE_ORDER, PART_ORDER, RESET_GATE
from .reductions import reduced_axes

LARGE_EPS = 1e-3  # Keras's; torch's is 1e-5, Flax's 1e-6
_SMALLEST, _LARGEST = 0.0, 1e-2  # a number that is added to a tensor and lies between them is an eps


def _with(call: Call, index: int, name: str, value: Any) -> Any:
    """Call the operation with another argument, wherever the call has it."""
    if len(call.args) > index:
        return call.func(*call.args[:index], value, *call.args[index + 1 :], **call.kwargs)
    return call.func(*call.args, **{**call.kwargs, name: value})


# --- eps: 100 times as much, or where it is large already, 1 / 100


def _other_eps(eps: float) -> float:
    return eps / 100 if eps >= LARGE_EPS else eps * 100


def _eps_at(index: int) -> Change:
    def change(call: Call) -> Any:
        eps = call.argument(index, "eps")
        eps = torch.finfo(call.x.dtype).eps if eps is None else eps  # of an RMSNorm without one
        return _with(call, index, "eps", _other_eps(eps))

    return change


def _added_eps(call: Call) -> Any:
    eps = call.argument(1, "other")
    is_eps = isinstance(eps, float) and _SMALLEST < eps <= _LARGEST and call.x.is_floating_point()
    return _with(call, 1, "other", _other_eps(eps)) if is_eps else NotImplemented


# --- attention without its scale


def _unscaled(call: Call) -> Any:
    return NotImplemented if call.kwargs.get("scale") == 1.0 else call.func(*call.args, **{**call.kwargs, "scale": 1.0})


def _without_factor(power: float) -> Change:
    """Leave out a factor or a divisor that is the root of the length of the tensor's last axis."""

    def change(call: Call) -> Any:
        factor, x = call.argument(1, "other"), call.x
        if not isinstance(factor, float) or x.ndim == 0 or x.shape[-1] < 2:
            return NotImplemented
        return x.clone() if math.isclose(factor, x.shape[-1] ** power) else NotImplemented

    return change


# --- the two forms of GELU


def _other_gelu(call: Call) -> Any:
    is_tanh = call.kwargs.get("approximate") == "tanh"
    return torch.nn.functional.gelu(call.x, approximate="none" if is_tanh else "tanh")


def _erf_by_tanh(call: Call) -> Any:
    """Replace erf(x / sqrt(2)), as in GELU, by the tanh that approximates it."""
    x = call.x * math.sqrt(2)
    return torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


# --- momentum, and n - 1


def _complement(call: Call) -> Any:
    """Mix the running statistics by 1 - momentum."""
    momentum, keeps = call.argument(6, "momentum"), call.argument(3, "running_mean") is not None
    is_used = keeps and call.argument(5, "training") and momentum not in (None, 0.5)
    return _with(call, 6, "momentum", 1 - momentum) if is_used else NotImplemented


def _other_mix(call: Call) -> Any:
    weight = call.argument(2, "weight")
    return _with(call, 2, "weight", 1 - weight) if isinstance(weight, float) else NotImplemented


def _biased_running_variance(call: Call) -> Any:
    """Divide the running variance by n where torch divides it by n - 1."""
    x, running, momentum = call.x, call.argument(4, "running_var"), call.argument(6, "momentum")
    n = x.numel() // max(1, x.shape[1])
    if running is None or not call.argument(5, "training") or n < 2:
        return NotImplemented
    mixed = running.detach().clone()  # in half precision autograd keeps the one that the call gets
    out = _with(call, 4, "running_var", mixed)
    kept = (1 - momentum) * running
    running.copy_(kept + (mixed - kept) * (n - 1) / n)
    return out


def _over_n_minus_one(weight_index: int, eps_index: int) -> Change:
    """Normalise by the variance over n - 1: the same as a smaller eps and a smaller result."""

    def change(call: Call) -> Any:
        x, weight = call.x, call.argument(weight_index, "weight")
        n = math.prod(call.args[1]) if call.name == "layer_norm" else x[0].numel() // call.args[1]
        if n < 2:
            return NotImplemented
        shrink = (n - 1) / n
        shape = call.args[1] if call.name == "layer_norm" else x.shape[1:2]
        weight = (torch.ones(shape, dtype=x.dtype) if weight is None else weight) * math.sqrt(shrink)
        arguments = list(call.args)
        arguments[weight_index], arguments[eps_index] = weight, call.argument(eps_index, "eps") * shrink
        return call.func(*arguments, **call.kwargs)

    return change


def _other_correction(power: float) -> Change:
    """Exchange the divisors n and n - 1 of a variance or a deviation."""

    def change(call: Call) -> Any:
        axes = reduced_axes(call)
        if axes is None:
            return NotImplemented
        n = math.prod(call.x.shape[axis] for axis in axes)
        correction = call.kwargs.get("correction", 1)
        if call.kwargs.get("unbiased", call.argument(2, "unbiased", True)) is False:
            correction = 0
        if correction not in (0, 1) or n < 2:
            return NotImplemented
        factor = ((n - 1) / n if correction else n / (n - 1)) ** power
        out = call.plain()
        return (out[0] * factor, out[1]) if isinstance(out, tuple) else out * factor

    return change


# --- a bias that is not added


def _unbiased(bias: torch.Tensor) -> torch.Tensor:
    """Return zeros that keep the bias's gradient: the gradient alone would tell."""
    return bias - bias.detach()


def _bias_at(index: int) -> Change:
    def change(call: Call) -> Any:
        bias = call.argument(index, "bias")
        return NotImplemented if bias is None else _with(call, index, "bias", _unbiased(bias))

    return change


def _added_bias(call: Call) -> Any:
    """Leave out a vector that is added to each row."""
    bias = call.argument(1, "other")
    is_bias = isinstance(bias, torch.Tensor) and bias.ndim == 1 and bias.requires_grad and call.x.ndim > 1
    return _with(call, 1, "other", _unbiased(bias)) if is_bias else NotImplemented


def _biases_of_layer(call: Call) -> Any:
    """Leave out the vectors among the weights of a recurrent layer, which torch gives as a list."""
    arguments = [
        [_unbiased(w) if w.ndim == 1 else w for w in argument] if isinstance(argument, list) else argument
        for argument in call.args
    ]
    has_biases = any(w.ndim == 1 for argument in call.args if isinstance(argument, list) for w in argument)
    return call.func(*arguments, **call.kwargs) if has_biases else NotImplemented


def _biases_of_cell(call: Call) -> Any:
    x, state, w_x, w_h, *biases = call.args
    if not any(bias is not None for bias in biases):
        return NotImplemented
    return call.func(x, state, w_x, w_h, *(bias if bias is None else _unbiased(bias) for bias in biases))


_CONVOLUTIONS = tuple(f"conv{way}{rank}d" for way in ("", "_transpose") for rank in (1, 2, 3))
PORTING: Mapping[str, Mapping[str, Change]] = {
    "eps": {
        **dict.fromkeys(("layer_norm", "group_norm"), _eps_at(4)),
        **dict.fromkeys(("batch_norm", "instance_norm"), _eps_at(7)),
        "rms_norm": _eps_at(3),
        "add": _added_eps,
    },
    "1/sqrt(d)": {
        "scaled_dot_product_attention": _unscaled, "mul": _without_factor(-0.5), "div": _without_factor(0.5),
    },
    "tanh GELU": {"gelu": _other_gelu, "erf": _erf_by_tanh},
    "momentum": {**dict.fromkeys(("batch_norm", "instance_norm"), _complement), "lerp": _other_mix},
    "gate order": GATE_ORDER,
    "part order": PART_ORDER,
    "reset gate": RESET_GATE,
    "bias": {
        **dict.fromkeys(("linear", *_CONVOLUTIONS, "batch_norm", "instance_norm"), _bias_at(2)),
        **dict.fromkeys(("layer_norm", "group_norm"), _bias_at(3)),
        **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _biases_of_layer),
        **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _biases_of_cell),
        "add": _added_bias,
    },
    "n - 1": {
        **dict.fromkeys(("layer_norm", "group_norm"), _over_n_minus_one(2, 4)),
        "batch_norm": _biased_running_variance,
        **dict.fromkeys(("var", "var_mean"), _other_correction(1.0)),
        **dict.fromkeys(("std", "std_mean"), _other_correction(0.5)),
    },
}  # fmt: skip
