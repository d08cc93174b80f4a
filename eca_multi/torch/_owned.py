"""Load tensors into a model: make checked copies first, then assign all of them or none."""

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch.nn.parameter import is_lazy

from eca_multi._states import WrongKind, check_kind, check_range, kind_of, not_finite, overflow
from eca_multi._undo import undone_on_error

Owner = TypeVar("Owner")


def owned(value: Any, like: torch.Tensor) -> torch.Tensor:
    """Return a checked copy of a tensor in the dtype, on the device and in the layout of `like`.

    Raises:
        WrongKind, WrongValue: As `owned_array`.
    """
    if not isinstance(value, torch.Tensor):
        raise WrongKind(f"a {type(value).__name__}, no torch.Tensor")
    if is_lazy(value):
        raise WrongKind("an uninitialized parameter, which has no values")
    if value.is_meta:
        raise WrongKind("a tensor on the meta device, which has no values")
    if value.layout != like.layout:
        raise WrongKind(f"of layout {value.layout}, the model's {like.layout}")
    check_kind(_name(value), _name(like))
    _check_range(value, like)
    new = torch.empty_like(like)
    try:
        new.copy_(value)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # each subclass raises a class of its own: fake tensors, tensors over a mesh
        reason = str(error).partition("\n")[0]
        raise WrongKind(f"a {type(value).__name__}, which cannot be copied: {reason}") from error
    if kind_of(_name(like)) in ("floating point", "complex") or like.is_quantized:
        _check_finite(new, value, like)
    return new


def assign(owner: Owner, targets: Mapping[str, torch.Tensor], new: dict[str, torch.Tensor]) -> Owner:
    """Copy all new tensors into the model's own, or none, and return their owner.

    It empties `new` on the way: one copy of each name exists at a time, so the peak is twice the model.
    """
    undo: list[Any] = []
    with torch.no_grad(), undone_on_error(undo):
        for name in list(new):
            undo.append(partial(targets[name].copy_, targets[name].clone()))
            targets[name].copy_(new.pop(name))
        return owner


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_range(value: torch.Tensor, like: torch.Tensor) -> None:
    if kind_of(_name(like)) == "integer" and value.dtype != like.dtype and value.numel():
        lowest, highest = (int(extreme) for extreme in torch.aminmax(value.to(torch.int64)))
        if value.dtype == torch.uint64 and lowest < 0:  # too large for int64, in which aminmax compares
            highest = 2**64 - 1
        limits = torch.iinfo(like.dtype)
        check_range(lowest, highest, limits.min, limits.max, _name(like))


def _check_finite(new: torch.Tensor, value: torch.Tensor, like: torch.Tensor) -> None:
    if _has_finite_sum(new):
        return
    finite = torch.isfinite(_dense(new))
    if _all(finite):
        return
    was_finite = torch.isfinite(_dense(value)).to(finite.device)
    if not _all(finite | ~was_finite):
        raise overflow(_name(like))
    old = _dense(like)
    if not _all(finite | (_dense(new) == old) | (torch.isnan(_dense(new)) & torch.isnan(old))):
        raise not_finite()


def _has_finite_sum(tensor: torch.Tensor) -> bool:
    """Whether the sum is finite. Then each number is: no finite number cancels NaN or infinity.

    The sum takes a twentieth of the time of torch.isfinite. It may overflow, so False proves nothing.
    """
    total = _dense(tensor).sum()
    return bool(torch.isfinite(total.full_tensor() if hasattr(total, "full_tensor") else total))


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in a form that torch compares: sparse and quantised tensors dense, float8 as float32."""
    if tensor.is_quantized:
        return tensor.dequantize()
    tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize == 1 else tensor


def _all(flags: torch.Tensor) -> bool:
    """Whether all flags are true, on all devices of a tensor over a mesh."""
    result = flags.all()
    return bool(result.full_tensor() if hasattr(result, "full_tensor") else result)
