"""NumPy's operations: those that copy or select, those that round once, and the number of products in each sum."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .errors import words

# Elementwise operations that copy or select.
EXACT_UFUNCS = words(
    "negative positive absolute fabs sign maximum minimum fmax fmin floor ceil trunc rint copysign heaviside conjugate "
    "nextafter spacing clip frexp modf"
)
# Elementwise operations that round once; all others count as transcendental.
ARITHMETIC_UFUNCS = words("add subtract multiply divide reciprocal sqrt square fmod remainder floor_divide ldexp")
PRODUCTS = words("matmul vecdot matvec vecmat")
# Functions that copy, select or make arrays.
EXACT_FUNCTIONS = words(
    """
    where concatenate stack hstack vstack dstack column_stack block pad roll flip fliplr flipud rot90 tile repeat
    reshape ravel transpose permute_dims swapaxes moveaxis rollaxis expand_dims squeeze broadcast_to broadcast_arrays
    atleast_1d atleast_2d atleast_3d array_split split hsplit vsplit dsplit unstack copy copyto array_equal
    array_equiv take take_along_axis put put_along_axis putmask place choose compress extract select diag diagonal
    diagflat tril triu zeros_like ones_like full_like empty_like sort argsort partition argpartition max min amax amin
    argmax argmin nanmax nanmin nanargmax nanargmin median nanmedian searchsorted unique nonzero flatnonzero argwhere
    count_nonzero insert delete append resize trim_zeros clip round around sliding_window_view as_strided real imag
    isclose allclose iscomplexobj isrealobj shape ndim size result_type can_cast min_scalar_type common_type
    shares_memory may_share_memory array_repr array_str array2string ix_ fill_diagonal nan_to_num lexsort meshgrid
    """
)


def is_float64(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.float64)) and value.dtype == np.float64


def absolute(ufunc: np.ufunc, method: str, inputs: list[Any], options: dict[str, Any]) -> Any:
    return getattr(ufunc, method)(*(np.abs(a) if is_float64(np.asarray(a)) else a for a in inputs), **options)


def root_of_products(name: str, inputs: list[Any]) -> float:
    """Return the root of the number of products in each result of a matrix product."""
    return math.sqrt(np.shape(inputs[1])[-2] if name == "vecmat" else np.shape(inputs[0])[-1])


def root_of_terms(method: str, inputs: list[Any], options: Mapping[str, Any]) -> Any:
    """Return the root of the number of terms in each result of a reduction."""
    x = np.asarray(inputs[0])
    axis = options.get("axis", 0)
    if method == "reduceat":
        return math.sqrt(x.shape[axis])
    if method == "accumulate":
        count = np.sqrt(np.arange(1.0, x.shape[axis] + 1))
        return count.reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return math.sqrt(math.prod(x.shape[a] for a in axes)) if x.ndim else 1.0


def _abs_args(func: Any, args: Any, options: Mapping[str, Any]) -> Any:
    return func(*(np.abs(a) if is_float64(a) else a for a in args), **options)


def _einsum(func: Any, args: Any, options: Mapping[str, Any]) -> tuple[Any, float]:
    size = _abs_args(func, args, options)
    if isinstance(args[0], str):
        total = dict(zip(args[0].split("->")[0].replace(" ", "").split(","), args[1:], strict=False))
        lengths: dict[str, int] = {}
        for letters, operand in total.items():
            if "." not in letters:
                lengths |= zip(letters, np.shape(operand), strict=True)
        summed = set(lengths) - set(args[0].split("->")[1]) if "->" in args[0] else set(lengths)
        return size, math.prod(lengths[c] for c in summed)
    return size, math.prod(np.shape(args[0])) / max(np.size(size), 1)


def _tensordot(func: Any, args: Any, options: Mapping[str, Any]) -> tuple[Any, float]:
    size = _abs_args(func, args, options)
    # (M, K) times (K, N): the sizes' quotient is K * K.
    return size, math.sqrt(np.size(args[0]) * np.size(args[1]) / max(np.size(size), 1))


def _norm(func: Any, args: Any, options: Mapping[str, Any]) -> tuple[Any, float]:
    size = func(*args, **options)
    return size, np.size(args[0]) / max(np.size(size), 1)


FUNCTIONS: dict[str, Callable[[Any, Any, Mapping[str, Any]], tuple[Any, float]]] = {
    "einsum": _einsum,
    "dot": lambda f, a, o: (_abs_args(f, a, o), np.shape(a[0])[-1] if np.ndim(a[0]) else 1),
    "inner": lambda f, a, o: (_abs_args(f, a, o), np.shape(a[0])[-1] if np.ndim(a[0]) else 1),
    "vdot": lambda f, a, o: (_abs_args(f, a, o), np.size(a[0])),
    "tensordot": _tensordot,
    "norm": _norm,
    "vector_norm": _norm,
    "convolve": lambda f, a, o: (_abs_args(f, a, o), min(np.size(a[0]), np.size(a[1]))),
    "correlate": lambda f, a, o: (_abs_args(f, a, o), min(np.size(a[0]), np.size(a[1]))),
}
