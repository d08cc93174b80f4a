"""Arrays in the caller's structure: one array, or tuples, lists, dicts and dataclasses of them, as deep as they come.

Every leaf has a path: the keys, positions and fields that lead to it, joined by "/". At the top a position gets a
letter before it ("x0", "y1"), and a leaf that is the whole structure has the letter for its name ("x").
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
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
    """Name the arrays of a structure; floats in float64. A list of numbers is an array."""
    named = {name: host(leaf) for name, leaf in leaves(letter, _arrays(value)).items()}
    return {
        name: a.astype(np.float64) if a.dtype.kind == "f" or a.dtype.name == "bfloat16" else a
        for name, a in named.items()
    }


def restore(letter: str, like: Any, arrays: Mapping[str, Any]) -> Any:
    """Put named arrays into the structure of `like`."""
    return rebuilt(letter, _arrays(like), arrays)


def leaves(letter: str, value: Any) -> dict[str, Any]:
    """Return the leaves of a structure by path; None holds no leaf.

    Example:
        >>> leaves("x", {"ids": 1, "state": (2, None, [3])})
        {'ids': 1, 'state/0': 2, 'state/2/0': 3}
        >>> leaves("y", (1, 2)), leaves("y", 1)
        ({'y0': 1, 'y1': 2}, {'y': 1})
    """
    return dict(_walk(letter, value))


def rebuilt(letter: str, like: Any, changed: Mapping[str, Any]) -> Any:
    """Return the structure `like` with the leaves of `changed` in place of its own.

    Example:
        >>> rebuilt("x", {"ids": 1, "state": (2, None)}, {"state/0": 5})
        {'ids': 1, 'state': (5, None)}
    """
    return _rebuilt(letter, like, changed, top=True)


def parts(value: Any) -> Mapping[str, Any] | None:
    """Return what a container holds, by key, position or field; None for a leaf."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return {str(number): item for number, item in enumerate(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return None


def _walk(name: str, value: Any, top: bool = True) -> Iterator[tuple[str, Any]]:
    inside = parts(value)
    if inside is None:
        if value is not None:
            yield name, value
        return
    for key, item in inside.items():
        yield from _walk(_joined(name, key, value, top), item, top=False)


def _rebuilt(name: str, like: Any, changed: Mapping[str, Any], top: bool) -> Any:
    inside = parts(like)
    if inside is None:
        return changed.get(name, like)
    new = {key: _rebuilt(_joined(name, key, like, top), item, changed, top=False) for key, item in inside.items()}
    if isinstance(like, Mapping):
        whole = {key: new[str(key)] for key in like}
        kind: Any = type(like)
        return kind(**new) if is_dataclass(like) else kind(whole)  # a ModelOutput of transformers is both
    if isinstance(like, tuple) and hasattr(like, "_fields"):
        return type(like)(*new.values())
    return type(like)(new.values()) if isinstance(like, (list, tuple)) else replace(like, **new)


def _joined(name: str, key: str, container: Any, top: bool) -> str:
    if not top:
        return f"{name}/{key}"
    return f"{name}{key}" if isinstance(container, (list, tuple)) else key


def _arrays(value: Any) -> Any:
    """Turn lists of numbers, as deep as they come, into arrays."""
    if isinstance(value, Mapping):
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and value:
        if all(_is_number(item) for item in value):
            return np.asarray(value)
        items = [_arrays(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _is_number(value: Any) -> bool:
    return np.isscalar(value) or (isinstance(value, list) and bool(value) and all(map(_is_number, value)))
