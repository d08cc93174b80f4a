"""Canonical weights: one NumPy form that every framework converts to and from.

An ECA layer has one weight. Canonically it is `{"weight": array}` with shape (k,) for one kernel and (C, k) for one
kernel per channel (ECA-NS with C > 1). Tap j reads channel c + j - k//2 in all frameworks, so a conversion is a
transpose, never a flip:

    framework          name          one kernel   one per channel
    torch              conv.weight   (1, 1, k)    (C, 1, k)
    keras, linen, nnx  kernel        (k, 1, 1)    (k, 1, C)

bfloat16 has no NumPy dtype of its own: it is widened to float32, which is exact.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ._states import WrongKind, as_numpy

CANONICAL_NAME = "weight"
NATIVE_NAMES = {"torch": "conv.weight", "keras": "kernel", "linen": "kernel", "nnx": "kernel"}

# axis of the native weight that holds (kernels, taps); the third one has length 1
_NATIVE_AXES = {"torch": (0, 2), "keras": (2, 0), "linen": (2, 0), "nnx": (2, 0), "jax": (2, 0)}

_LARGEST = {  # finite number of each dtype
    "float16": 65504.0,
    "bfloat16": float(2**128 - 2**120),
    "float32": float(np.finfo(np.float32).max),
    "float64": float(np.finfo(np.float64).max),
}

T = TypeVar("T")
Weights = dict[str, np.ndarray]


def native_kernel(framework: str, shape: Sequence[int]) -> tuple[int | None, int | None]:
    """Read a weight's shape as (kernels, taps); (None, None) if the shape is not of the framework's layout."""
    if len(shape) == 1:
        return 1, shape[0]
    kernels, taps = _NATIVE_AXES[framework]
    if len(shape) != 3 or shape[1] != 1:
        return None, None
    return shape[kernels], shape[taps]


def native_shape(framework: str, kernels: int, taps: int) -> tuple[int, int, int]:
    return (kernels, 1, taps) if _NATIVE_AXES[framework] == (0, 2) else (taps, 1, kernels)


def pack(framework: str, native: np.ndarray) -> Weights:
    """Return the canonical weights of a framework's array; a copy."""
    _one_kernel(framework, native.shape)
    kernels = widened(np.moveaxis(native, _NATIVE_AXES[framework], (0, 1))[:, :, 0])
    return {CANONICAL_NAME: np.array(kernels[0] if len(kernels) == 1 else kernels)}


def unpack(framework: str, weights: Mapping[str, np.ndarray], shape: Sequence[int], dtype: str) -> np.ndarray:
    """Check canonical weights against a framework's `shape` and `dtype`, and return them in that layout."""
    kernels, taps = _one_kernel(framework, shape)
    expected = (taps,) if kernels == 1 else (kernels, taps)
    arrays = check_weights(weights, {CANONICAL_NAME: expected}, dtype)
    matrix = np.atleast_2d(arrays[CANONICAL_NAME])
    return np.moveaxis(matrix[:, :, None], (0, 1), _NATIVE_AXES[framework])


def _one_kernel(framework: str, shape: Sequence[int]) -> tuple[int, int]:
    kernels, taps = native_kernel(framework, shape) if len(shape) == 3 else (None, None)
    if kernels is None or taps is None:
        layout = "(kernels, 1, k)" if framework == "torch" else "(k, 1, kernels)"
        raise ValueError(
            f"layer_or_params must hold the kernel of one ECA layer, {layout}. Received: shape {tuple(shape)}. "
            "Of layers that were stacked (vmap, scan) take one out."
        )
    return kernels, taps


def check_weights(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int | None]] | None = None, dtype: str = "float64"
) -> Weights:
    """Return `weights` as float arrays, or raise one error that names every tensor that does not fit.

    Args:
        weights: Mapping of canonical names to arrays.
        shapes: The names and shapes to expect; None accepts any.
        dtype: Name of the dtype that the weights go to; a value too large for that dtype raises.

    Raises:
        TypeError: If `weights` is no mapping of names to floating-point arrays.
        ValueError: If a tensor is missing, unexpected, mis-shaped, not finite or too large.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"weights must be a mapping of names to arrays. Received: {type(weights).__name__}. "
            "to_canonical(layer) returns one."
        )
    arrays = {name: _float_array(name, value) for name, value in weights.items()}
    faults = []
    for name, shape in (shapes or {}).items():
        if name not in arrays:
            faults.append(f"{name!r} is missing")
        elif arrays[name].shape != tuple(shape):
            faults.append(f"{name!r} has shape {arrays[name].shape}, expected {tuple(shape)}")
    for name, array in arrays.items():
        if shapes is not None and name not in shapes:
            faults.append(f"{name!r} is unexpected")
        elif not np.isfinite(array).all():
            faults.append(f"{name!r} is not finite")
        elif _LARGEST[array.dtype.name] > _LARGEST[dtype] and float(np.abs(array).max(initial=0)) > _LARGEST[dtype]:
            faults.append(f"{name!r} is too large for {dtype}")
    if faults:
        raise ValueError(f"weights do not fit: {'; '.join(faults)}. Nothing was changed.")
    return arrays


def _float_array(name: str, value: np.ndarray) -> np.ndarray:
    try:
        array = as_numpy(value)
    except WrongKind as fault:
        raise TypeError(
            f"weights must be floating-point arrays. Received: {name!r}, {fault}. Pass what to_canonical returned."
        ) from fault
    array = widened(array)
    if array.dtype.name not in _LARGEST:
        raise TypeError(
            f"weights must be floating-point arrays. Received: {name!r} of dtype {array.dtype}. Convert it to float32."
        )
    return array


def widened(array: np.ndarray) -> np.ndarray:
    """Return bfloat16 in float32, and any other array itself."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def narrowest(dtypes: Iterable[str]) -> str:
    """Return the dtype whose largest number is the smallest."""
    return min(dtypes, key=_LARGEST.__getitem__)


def pick(framework: str, params: Mapping[str, T]) -> T:
    """Return the weight from a framework's own parameter mapping, which must hold the weight and nothing else."""
    name = NATIVE_NAMES[framework]
    if set(params) != {name}:
        raise ValueError(
            f"layer_or_params must hold exactly {name!r}. Received: {sorted(map(str, params))}. "
            "Pass the parameters of one ECA layer."
        )
    return params[name]


def without_weight(what: str, remedy: str) -> ValueError:
    return ValueError(f"layer_or_params must have its weight. Received: {what}, which has none yet. {remedy}")
