"""Changes to the operations of a PyTorch layer as it runs, above autograd, which differentiates the changed ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from eca_multi.parity.engines._private_torch import DisableTorchFunction


@dataclass(frozen=True)
class Call:
    """A call of an operation. `name` lacks the underscore of an operation in place."""

    func: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def x(self) -> Any:
        """The first argument."""
        return self.args[0] if self.args else None

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        return self.kwargs.get(name, self.args[index] if len(self.args) > index else default)

    def plain(self) -> Any:
        return self.func(*self.args, **self.kwargs)

    def on(self, x: torch.Tensor) -> Any:
        """Call the operation with another first argument."""
        return self.func(x, *self.args[1:], **self.kwargs)


# Returns the changed result, or NotImplemented where this call has no place for the fault.
Change = Callable[[Call], Any]
ANY = "*"
PYTHON = ("torch.functional", "torch.nn.functional")


def carries_data(x: Any) -> bool:
    """Return whether x has a gradient: a count of mask entries is no mean."""
    return isinstance(x, torch.Tensor) and x.is_floating_point() and x.requires_grad


def each(value: Any, count: int) -> list[int]:
    """Return for each axis a setting that may be one number for all axes."""
    return [value] * count if isinstance(value, int) else list(value) * (count if len(value) == 1 else 1)


class Mutating(TorchFunctionMode):
    """Change operations by name within a `with` block; "*" changes those without an entry of their own.

    The mode enters the functions of `torch.nn.functional`, so that only the operations below them need names.

    Attributes:
        applied: How many calls were changed.
    """

    def __init__(self, changes: Mapping[str, Change]) -> None:
        super().__init__()
        self.changes = changes
        self.applied = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        # By where its code stands: a pool that may return indices is a dispatcher of another module.
        if isinstance(func, FunctionType) and func.__globals__.get("__name__") in PYTHON:
            with self:
                return _opened(func)(*args, **kwargs)
        name = getattr(func, "__name__", "")
        plain = name if name.startswith("__") else name.removesuffix("_")
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        call = Call(func, plain, tuple(args), kwargs)
        if plain in WRITTEN_OUT and WRITTEN_OUT[plain][0] in self.changes:
            with self:
                result = WRITTEN_OUT[plain][1](call)
            if result is not NotImplemented:
                return result
        change = self.changes.get(plain, self.changes.get(ANY))
        result = NotImplemented if change is None else _changed(change, call, in_place=plain != name)
        if result is NotImplemented:
            return func(*args, **kwargs)
        self.applied += 1
        return result


def _changed(change: Change, call: Call, in_place: bool) -> Any:
    if not in_place:
        return change(call)
    result = change(replace(call, args=(call.x.clone(), *call.args[1:])))
    return result if result is NotImplemented else call.x.copy_(result)


def _opened(function: FunctionType) -> Callable[..., Any]:
    """Copy a function so that it runs its body without asking for overrides, of which the mode would be one."""
    asks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    names = {**function.__globals__, **dict.fromkeys(asks, lambda *_: False)}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


# --- formulas of composite operations, for changes to the operations within


def _normalised(x: torch.Tensor, axes: tuple[int, ...], eps: float, *, centred: bool = True) -> torch.Tensor:
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    centre = wide - wide.mean(axes, keepdim=True) if centred else wide
    return centre / ((centre * centre).mean(axes, keepdim=True) + eps).sqrt()


def _affine(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, like: torch.Tensor) -> Any:
    x = x if weight is None else x * weight
    return (x if bias is None else x + bias).to(like.dtype)


def _layer_norm(call: Call) -> Any:
    axes = tuple(range(-len(call.args[1]), 0))
    eps = call.argument(4, "eps", 1e-5)
    return _affine(_normalised(call.x, axes, eps), call.argument(2, "weight"), call.argument(3, "bias"), call.x)


def _rms_norm(call: Call) -> Any:
    axes = tuple(range(-len(call.args[1]), 0))
    eps = call.argument(3, "eps")
    eps = torch.finfo(call.x.dtype).eps if eps is None else eps
    return _affine(_normalised(call.x, axes, eps, centred=False), call.argument(2, "weight"), None, call.x)


def _per_channel(x: torch.Tensor, parameter: torch.Tensor | None) -> torch.Tensor | None:
    return None if parameter is None else parameter.reshape(-1, *[1] * (x.ndim - 2))


def _group_norm(call: Call) -> Any:
    x, groups = call.x, call.args[1]
    normal = _normalised(x.reshape(x.shape[0], groups, -1), (2,), call.argument(4, "eps", 1e-5)).reshape(x.shape)
    weight, bias = (_per_channel(x, call.argument(i, n)) for i, n in ((2, "weight"), (3, "bias")))
    return _affine(normal, weight, bias, x)


def _batch_norm(call: Call) -> Any:
    x, weight, bias, _, _, training, _, eps, *_ = call.args
    if not training:
        return NotImplemented
    with torch.no_grad(), DisableTorchFunction():
        call.plain()  # for the running statistics
    axes = tuple(i for i in range(x.ndim) if i != 1)
    return _affine(_normalised(x, axes, eps), _per_channel(x, weight), _per_channel(x, bias), x)


def _attention(call: Call) -> Any:
    q, k, v = call.args[:3]
    mask, causal, scale = call.argument(3, "attn_mask"), call.argument(5, "is_causal"), call.kwargs.get("scale")
    if call.argument(4, "dropout_p") or call.kwargs.get("enable_gqa"):
        return NotImplemented
    scores = q.float() @ k.float().transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1) @ v.float()).to(q.dtype)


# Name -> the operation within that a change may name, and the formula.
WRITTEN_OUT: dict[str, tuple[str, Change]] = {
    "layer_norm": ("mean", _layer_norm),
    "rms_norm": ("mean", _rms_norm),
    "group_norm": ("mean", _group_norm),
    "batch_norm": ("mean", _batch_norm),
    "scaled_dot_product_attention": ("softmax", _attention),
}
