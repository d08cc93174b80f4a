"""JAX's primitives in PyTorch. A number that is known stays a number of Python, where hypotheses look for it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .program import Equation, Unknown
from .windows import WINDOWS

Params = Mapping[str, Any]
_COPIES = ("stop_gradient", "copy", "copy_p", "reduce_precision", "optimization_barrier", "name", "pvary")
_DTYPES = {"bool": torch.bool, "int32": torch.int64, "uint32": torch.int64, "uint8": torch.int64}
_UNARY = {
    **{n: getattr(torch, n) for n in ("exp", "log", "log1p", "expm1", "sin", "cos", "tan", "tanh", "sinh", "cosh")},
    **{n: getattr(torch, n) for n in ("sqrt", "rsqrt", "square", "abs", "sign", "neg", "floor", "ceil", "erf", "erfc")},
    **{"logistic": torch.sigmoid, "exp2": torch.exp2, "is_finite": torch.isfinite, "not": torch.logical_not},
}
_BINARY = {
    **{n: getattr(torch, n) for n in ("add", "mul", "sub", "div", "pow", "eq", "ne", "lt", "le", "gt", "ge")},
    **{"add_any": torch.add, "max": torch.maximum, "min": torch.minimum, "rem": torch.fmod, "atan2": torch.atan2},
    **{"and": torch.logical_and, "or": torch.logical_or, "xor": torch.logical_xor},
}
_SWAPPED = {"add": "add", "mul": "mul", "max": "max", "min": "min", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
_SWAPPED |= {"eq": "eq", "ne": "ne", "add_any": "add_any"}
_REDUCED: dict[str, Callable[..., Any]] = {
    "reduce_sum": lambda x, axes: torch.sum(x, axes),
    "reduce_max": lambda x, axes: torch.amax(x, axes),
    "reduce_min": lambda x, axes: torch.amin(x, axes),
    "reduce_and": lambda x, axes: torch.amin(x.long(), axes).bool(),
    "reduce_or": lambda x, axes: torch.amax(x.long(), axes).bool(),
}


def computed(equation: Equation, args: list[Any]) -> list[Any]:
    """Return what an equation makes of tensors and numbers.

    Raises:
        Unknown: If there is no such operation here.
    """
    name, params = equation.name, equation.params
    if name not in _BINARY:
        args = [_whole(read, x) for read, x in zip(equation.reads, args, strict=True)]
    if name == "torch":  # an operation that composites.py has found
        return [params["call"](*args)]
    if name in _COPIES:
        return list(args)
    if name in _BINARY:
        return [_binary(name, *args)]
    if name in _UNARY:
        return [_unary(name, args[0])]
    if name in _REDUCED:
        axes = list(params["axes"])
        return [_REDUCED[name](tensor(args[0]), axes) if axes else args[0]]
    if name in WINDOWS:
        return [WINDOWS[name](params, *map(tensor, args))]
    if name in _OTHERS:
        made = _OTHERS[name](equation, *args)
        return list(made) if name == "split" else [made]
    raise Unknown(name)


def _whole(read: Any, x: Any) -> Any:
    """Give a tensor the leading axes of size 1 that a weight goes without in sums and products."""
    missing = len(read.shape) - x.ndim if isinstance(x, torch.Tensor) else 0
    return x.reshape((1,) * missing + tuple(x.shape)) if missing > 0 else x


def tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=_dtype_of(value))


def known(array: np.ndarray) -> Any:
    """Return a known array as a number of Python, or as a tensor."""
    if array.ndim == 0 and array.dtype.kind in "fiub":
        return array.item()
    if array.dtype.kind not in "fiubV" and array.dtype.name != "bfloat16":
        raise Unknown(str(array.dtype))
    kind = np.float64 if array.dtype.kind in "fV" else bool if array.dtype.kind == "b" else np.int64
    return torch.from_numpy(np.array(array, kind))


def _dtype_of(value: Any) -> torch.dtype:
    return torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else torch.float64


def _binary(name: str, a: Any, b: Any) -> Any:
    numbers = [not isinstance(x, torch.Tensor) for x in (a, b)]
    if all(numbers):
        return _BINARY[name](tensor(a), tensor(b)).item()
    if numbers[0] and name in _SWAPPED:
        return _binary(_SWAPPED[name], b, a)
    if name in ("max", "min") and numbers[1]:
        return torch.relu(a) if (name, b) == ("max", 0) else torch.clamp(a, **{"min" if name == "max" else "max": b})
    if name in ("and", "or", "xor", "atan2") or numbers[0]:
        a, b = tensor(a), tensor(b)
    if name == "div" and not a.is_floating_point():
        return torch.div(a, b, rounding_mode="trunc")
    return _BINARY[name](a, b)


def _unary(name: str, x: Any) -> Any:
    return _UNARY[name](x) if isinstance(x, torch.Tensor) else _UNARY[name](tensor(x)).item()


def _cast(equation: Equation, x: Any) -> Any:
    value = equation.makes[0]
    if not isinstance(x, torch.Tensor):
        return float(x) if value.is_float else bool(x) if value.dtype == "bool" else int(x)
    if value.is_float:
        return x if x.is_floating_point() else x.to(torch.float64)
    return x.to(_DTYPES.get(value.dtype, torch.int64))


def _broadcast(equation: Equation, x: Any, *_: Any) -> Any:
    shape, axes = equation.makes[0].shape, equation.params["broadcast_dimensions"]
    if not isinstance(x, torch.Tensor):
        return torch.full(shape, x, dtype=_dtype_of(x)) if shape else x
    is_weight = isinstance(x, torch.nn.Parameter)
    if is_weight and tuple(axes) == tuple(range(len(shape) - x.ndim, len(shape))) and _only_unit_axes(x.shape, shape):
        return x  # PyTorch's own rule; a weight stays a weight
    spread = [1] * len(shape)
    for axis, size in zip(axes, x.shape, strict=True):
        spread[axis] = size
    return torch.reshape(x, spread).expand(shape)


def _only_unit_axes(before: Any, after: tuple[int, ...]) -> bool:
    return tuple(after) == (1,) * (len(after) - len(before)) + tuple(before)


def _reshape(equation: Equation, x: Any, *_: Any) -> Any:
    shape = equation.makes[0].shape
    if not isinstance(x, torch.Tensor):
        return torch.full(shape, x, dtype=_dtype_of(x)) if shape else x
    if isinstance(x, torch.nn.Parameter) and _only_unit_axes(x.shape, shape):
        return x
    return torch.reshape(x, shape)


def _dot(equation: Equation, a: Any, b: Any) -> Any:
    (in_a, in_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    a, b = tensor(a).to(torch.float64), tensor(b).to(torch.float64)
    free_a = [i for i in range(a.ndim) if i not in (*in_a, *batch_a)]
    free_b = [i for i in range(b.ndim) if i not in (*in_b, *batch_b)]
    width, batch = math.prod(a.shape[i] for i in in_a), [a.shape[i] for i in batch_a]
    rows, columns = ([x.shape[i] for i in free] for x, free in ((a, free_a), (b, free_b)))
    left = a.permute([*batch_a, *free_a, *in_a]).reshape(*batch, math.prod(rows), width)
    right = b if b.ndim == 2 and tuple(in_b) == (0,) else b.permute([*batch_b, *in_b, *free_b])
    right = right if right is b else right.reshape(*batch, width, math.prod(columns))
    return torch.matmul(left, right).reshape(*batch, *rows, *columns)


def _where(equation: Equation, which: Any, *cases: Any) -> Any:
    if len(cases) != 2:
        raise Unknown("select_n")
    no, yes = cases
    condition = tensor(which).to(torch.bool)
    shape = equation.makes[0].shape
    no, yes = (x if isinstance(x, torch.Tensor) else torch.full(shape, x, dtype=_dtype_of(x)) for x in (no, yes))
    return torch.where(condition, yes, no)


def _slice(equation: Equation, x: Any) -> Any:
    starts, ends, steps = (equation.params[n] for n in ("start_indices", "limit_indices", "strides"))
    cuts = zip(starts, ends, steps or [1] * len(starts), x.shape, strict=True)
    return x[tuple(slice(_or_none(b, 0), _or_none(e, n), _or_none(s, 1)) for b, e, s, n in cuts)]


def _or_none(value: int, usual: int) -> int | None:
    return None if int(value) == usual else int(value)


def _padded(equation: Equation, x: Any, value: Any) -> Any:
    amounts = equation.params["padding_config"]
    if any(inner for _, _, inner in amounts):
        raise Unknown("pad")
    return F.pad(x, [int(n) for low, high, _ in reversed(amounts) for n in (low, high)], "constant", float(value))


def _iota(equation: Equation) -> Any:
    value, axis = equation.makes[0], equation.params["dimension"]
    dtype = torch.float64 if value.is_float else torch.int64
    line = torch.arange(value.shape[axis], dtype=dtype)
    return line.reshape([-1 if i == axis else 1 for i in range(len(value.shape))]).expand(value.shape)


def _gather(equation: Equation, x: Any, indices: Any) -> Any:
    """Read rows of a table."""
    numbers, sizes = equation.params["dimension_numbers"], tuple(equation.params["slice_sizes"])
    is_rows = tuple(numbers.collapsed_slice_dims) == (0,) == tuple(numbers.start_index_map)
    rank = indices.ndim - 1
    last = tuple(numbers.offset_dims) == tuple(range(rank, rank + x.ndim - 1))
    if not (is_rows and last and sizes == (1, *x.shape[1:]) and not numbers.operand_batching_dims):
        raise Unknown("gather")
    rows = indices[..., 0].clamp(0, x.shape[0] - 1)
    return F.embedding(rows, x) if x.ndim == 2 else x[rows]


def _clamp(equation: Equation, low: Any, x: Any, high: Any) -> Any:
    return torch.minimum(torch.maximum(x, tensor(low).to(x.dtype)), tensor(high).to(x.dtype))


_OTHERS: dict[str, Callable[..., Any]] = {
    "convert_element_type": _cast,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": lambda equation, x: torch.permute(x, tuple(int(i) for i in equation.params["permutation"])),
    "dot_general": _dot,
    "select_n": _where,
    "slice": _slice,
    "pad": _padded,
    "iota": _iota,
    "gather": _gather,
    "clamp": _clamp,
    "rev": lambda equation, x: torch.flip(x, list(equation.params["dimensions"])),
    "concatenate": lambda equation, *parts: torch.cat([tensor(p) for p in parts], equation.params["dimension"]),
    "split": lambda equation, x: torch.split(x, [int(n) for n in equation.params["sizes"]], equation.params["axis"]),
    "integer_pow": lambda equation, x: torch.pow(tensor(x), equation.params["y"]),
    "cumsum": lambda equation, x: _cumulated(torch.cumsum, equation, x),
    "argmax": lambda equation, x: torch.argmax(x, equation.params["axes"][0]),
    "row": lambda equation, x: x[equation.params["step"]],
    "stack": lambda equation, *parts: torch.stack([tensor(p) for p in parts]),
}


def _cumulated(function: Callable[..., Any], equation: Equation, x: torch.Tensor) -> torch.Tensor:
    axis = equation.params["axis"]
    cumulated: torch.Tensor = function(x.flip(axis) if equation.params["reverse"] else x, axis)
    return cumulated.flip(axis) if equation.params["reverse"] else cumulated
