"""Arrays in the caller's structure: one array, a list or a dict."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .dtypes import DTYPES


def host(array: Any) -> np.ndarray:
    """Return any framework's array in NumPy, a PyTorch tensor with a gradient or in bfloat16 too."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":
            return np.asarray(array.float(), DTYPES["bfloat16"])
    return np.asarray(array)


def flatten(letter: str, value: Any) -> dict[str, np.ndarray]:
    """Name the arrays of a structure, those of a dict by key, those of a list by number; floats in float64."""
    if isinstance(value, Mapping):
        named = {str(key): host(item) for key, item in value.items()}
    elif isinstance(value, (list, tuple)) and not all(np.isscalar(item) for item in value):
        named = {f"{letter}{number}": host(item) for number, item in enumerate(value)}
    elif isinstance(value, (list, tuple)) and not value:
        named = {}
    else:
        named = {letter: host(value)}
    return {
        name: a.astype(np.float64) if a.dtype.kind == "f" or a.dtype.name == "bfloat16" else a
        for name, a in named.items()
    }


def restore(letter: str, like: Any, arrays: Mapping[str, Any]) -> Any:
    """Put named arrays into the structure of `like`."""
    if isinstance(like, Mapping):
        return {key: arrays[str(key)] for key in like}
    if isinstance(like, (list, tuple)) and f"{letter}0" in arrays:
        return type(like)(arrays[f"{letter}{number}"] for number in range(len(like)))
    return arrays.get(letter, ())
