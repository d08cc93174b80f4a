"""The checks of a state before it is loaded into a model, and the text of their messages, for all frameworks.

Loading has two phases. The first phase copies every entry into new memory in the model's dtype and checks the copy; one
error names all faulty entries. The second phase assigns the copies, and undoes the assignments if one fails. So after
any error the model is as before, and a loaded model shares no memory with the state.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np

from ._printable import printable

Key = TypeVar("Key", bound=Hashable)
Like = TypeVar("Like")
New = TypeVar("New")
FEW = 8  # differences that one line lists, where a state has no name of the model
NUMBERS = (bool, int, float, complex)  # of Python, which a module of Flax may hold in a variable


class WrongKind(TypeError):
    """An entry is no tensor with values, or holds another kind of number than the model."""


class WrongValue(ValueError):
    """An entry holds numbers that the model must not get."""


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of an array or number; None for a value without one."""
    shape = () if isinstance(value, NUMBERS) else getattr(value, "shape", None)
    return None if shape is None else tuple(shape)


def check_fits(
    expected: Mapping[Key, Any],
    received: Mapping[Key, Any],
    of_eca: bool,
    name: Callable[[Key], str] = str,
    shape: Callable[[Any], tuple[int, ...] | None] = shape_of,
) -> None:
    """Compare the names and shapes of a model's tensors with those of a state.

    Args:
        expected, received: The entries of the model and of the state. `converted` reports an entry without a shape.
        of_eca: Whether the state is that of the inserted ECAs, or of the network without them.
        name, shape: Text of a key, and shape of an entry.

    Raises:
        ValueError: With all differences; with the first names, if no name of several is the model's.
    """
    texts = [f"{name(key)}: missing" for key in expected if key not in received]
    texts += [f"{name(key)}: unexpected" for key in received if key not in expected]
    for key in (key for key in expected if key in received):
        shapes = shape(received[key]), shape(expected[key])
        if shapes[0] is not None and shapes[0] != shapes[1]:
            texts.append(f"{name(key)}: shape {shapes[0]}, the model's {shapes[1]}")
    listed = len(texts) <= FEW or any(key in expected for key in received)
    if not listed:
        first, own = next(map(name, received), "nothing"), next(map(name, expected), "nothing")
        texts = [f"{len(received)} names, of which the model has none ({first}, ...; the model's are {own}, ...)"]
    if texts:
        what = "kernels of the inserted ECAs" if of_eca else "state of the plain network"
        count = f"{len(texts)} differences: " if listed else ""
        raise ValueError(
            f"state must be the {what}. Received: {count}{printable('; '.join(texts))}. "
            f"Pass what {'eca_state' if of_eca else 'base_state'} returns of the same network; nothing was loaded."
        )


def converted(
    entries: Mapping[Key, tuple[Any, Like]], convert: Callable[[Any, Like], New], name: Callable[[Key], str] = str
) -> dict[Key, New]:
    """Convert all entries, or raise one TypeError or ValueError that names each entry that does not fit.

    Args:
        entries: By key: the state's value and the model's present one.
        convert: Returns the new tensor, or raises WrongKind or WrongValue with the reason.
        name: Text of a key.
    """
    new: dict[Key, New] = {}
    kinds, values = [], []
    for key, (value, like) in entries.items():
        try:
            new[key] = convert(value, like)
        except WrongKind as fault:
            kinds.append(f"{name(key)}: {fault}")
        except WrongValue as fault:
            values.append(f"{name(key)}: {fault}")
    if kinds:
        raise TypeError(
            f"state must hold tensors with values, of the model's kinds. Received: {printable('; '.join(kinds))}. "
            "Convert these, or take them from a state of the same network; nothing was loaded."
        )
    if values:
        raise ValueError(
            f"state must hold finite numbers in the range of the model's dtypes. "
            f"Received: {printable('; '.join(values))}. Take an earlier checkpoint; nothing was loaded."
        )
    return new


def kind_of(dtype: str) -> str:
    """The kind of number behind a dtype's name of any framework. Loading never converts one kind to another."""
    for kind, starts in {"floating point": ("float", "bfloat"), "integer": ("int", "uint")}.items():
        if dtype.startswith(starts):
            return kind
    return "complex" if dtype.startswith("complex") else dtype


def check_kind(dtype: str, expected: str) -> None:
    """Raise WrongKind if a dtype is of another kind than the model's: a conversion would drop a part or guess."""
    if kind_of(dtype) != kind_of(expected):
        raise WrongKind(f"{dtype}, the model's {expected}")


def check_range(lowest: int, highest: int, low: int, high: int, dtype: str) -> None:
    """Raise WrongValue if integers from `lowest` to `highest` wrap around in `dtype`, which holds `low` to `high`."""
    if lowest < low or highest > high:
        raise WrongValue(f"out of the range of {dtype}")


def overflow(dtype: str) -> WrongValue:
    """The error for a finite number that would become infinite."""
    return WrongValue(f"too large for {dtype}")


def not_finite() -> WrongValue:
    """The error for NaN or infinity at a place where the model has another number.

    A mask of -inf is a constant of the network, so the model holds -inf too; a number that training spoilt differs.
    """
    return WrongValue("NaN or infinite where the model is not")


def read(value: Any, to_numpy: Callable[[Any], Any] = np.asarray) -> np.ndarray:
    """Return an entry's values, as a view if possible; raise WrongKind if it is no array, or has no values any more."""
    array = as_numpy(value, to_numpy)
    if array.dtype.kind in "OSU":  # objects or text
        raise WrongKind(f"a {type(value).__name__}, no array with values")
    return array


def as_numpy(value: Any, to_numpy: Callable[[Any], Any] = np.asarray) -> np.ndarray:
    """Return the value as NumPy reads it, of any dtype; raise WrongKind if NumPy cannot read the value."""
    try:
        return np.asarray(to_numpy(value))
    except MemoryError:
        raise
    except Exception as error:  # each library raises its own class for a tensor without values
        reason = str(error).partition("\n")[0]
        raise WrongKind(f"a {type(value).__name__}, which cannot be read: {reason}") from error


def owned_array(
    value: np.ndarray, shape: tuple[int, ...], dtype: Any, current: Callable[[], np.ndarray | None]
) -> np.ndarray:
    """Return a checked copy of a NumPy array in the model's shape and dtype, or raise WrongKind or WrongValue.

    Args:
        shape, dtype: The model's.
        current: Returns the model's values, None for a model without values; called only if `value` is not finite.

    Raises:
        WrongKind: If the numbers are of another kind. WrongValue: If the shape differs, or a number is out of range, or
            not finite where that of the model is.
    """
    dtype = np.dtype(dtype)
    check_kind(value.dtype.name, dtype.name)
    if value.shape != shape:
        raise WrongValue(f"shape {value.shape}, the model's {shape}")
    kind = kind_of(dtype.name)
    if kind == "integer" and value.dtype != dtype and value.size:
        limits = np.iinfo(dtype)
        check_range(int(value.min()), int(value.max()), int(limits.min), int(limits.max), dtype.name)
    with np.errstate(over="ignore", invalid="ignore"):  # the lines below look for infinity
        new = np.array(value, dtype)
    if kind in ("floating point", "complex"):
        bad = ~np.isfinite(new)
        if bad.any():
            if np.isfinite(value)[bad].any():
                raise overflow(dtype.name)
            old = current()
            if old is None or not np.array_equal(new[bad], old[bad], equal_nan=True):
                raise not_finite()
    return new
