"""What a state that is loaded may hold, decided once for all frameworks, and the text of what is refused.

Loading has two phases. First every entry is converted to a tensor of the model's dtype in memory of its own and is
checked; all that is wrong is said in one error. Only then is anything assigned, and what was assigned is undone if an
assignment fails. So whatever is raised, nothing has changed, and nothing that is loaded shares memory with the state.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np

from ._printable import printable

Key = TypeVar("Key", bound=Hashable)
Like = TypeVar("Like")
New = TypeVar("New")
NUMBERS = (bool, int, float, complex)  # Python's own, which a module of Flax may hold in a variable


class WrongKind(TypeError):
    """An entry that is no tensor with values, or one of another kind of number than the model's."""


class WrongValue(ValueError):
    """An entry that holds numbers which the model must not get."""


Shape = tuple[int, ...] | None


def check_fits(
    own: Mapping[Key, Shape], given: Mapping[Key, Shape], of_eca: bool, name: Callable[[Key], str] = str
) -> None:
    """Compare names and shapes.

    Args:
        own, given: Shapes in the model and in the state; None for what has none. In the state that is no tensor, and
            `converted` says what it is.
        of_eca: Whether the state is that of the inserted ECAs, or of the network without them.
        name: Text of a key.

    Raises:
        ValueError: With all differences.
    """
    texts = [f"{name(key)}: missing" for key in own if key not in given]
    texts += [f"{name(key)}: unexpected" for key in given if key not in own]
    for key in (key for key in own if key in given):
        if given[key] is not None and given[key] != own[key]:
            texts.append(f"{name(key)}: shape {given[key]}, the model's {own[key]}")
    if texts:
        what, function = (
            ("kernels of the inserted ECAs", "eca_state") if of_eca else ("state of the plain network", "base_state")
        )
        raise ValueError(
            f"state must be the {what}. Received: {len(texts)} differences: {printable('; '.join(texts))}. "
            f"Pass what {function} returns of the same network; nothing was loaded."
        )


def shape_of(value: Any) -> Shape:
    """The shape of any array or number; None where it has none."""
    shape = () if isinstance(value, NUMBERS) else getattr(value, "shape", None)
    return None if shape is None else tuple(shape)


def converted(
    entries: Mapping[Key, tuple[Any, Like]],
    convert: Callable[[Any, Like], New],
    name: Callable[[Key], str] = str,
) -> dict[Key, New]:
    """Convert all entries, or raise one error that names each one which does not fit.

    Args:
        entries: By key: what the state holds, and what the model has now.
        convert: Returns the new tensor, or raises WrongKind or WrongValue with the reason.
        name: Text of a key.

    Raises:
        TypeError: If an entry is no tensor of the model's kind. ValueError: If numbers are not finite or out of range.
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
    """The kind of number that a dtype's name says, in any framework: a kind is never converted to another one."""
    for kind, starts in {"floating point": ("float", "bfloat"), "integer": ("int", "uint")}.items():
        if dtype.startswith(starts):
            return kind
    return "complex" if dtype.startswith("complex") else dtype


def check_kind(dtype: str, own: str) -> None:
    """Refuse what could only be loaded by dropping a part of it or by guessing what was meant.

    Raises:
        WrongKind: If one is of floating point, integer, boolean, complex or anything else, and the other is not.
    """
    if kind_of(dtype) != kind_of(own):
        raise WrongKind(f"{dtype}, the model's {own}")


def check_range(lowest: int, highest: int, low: int, high: int, dtype: str) -> None:
    """Refuse integers that would wrap around in `dtype`, which holds `low` to `high`.

    Raises:
        WrongValue
    """
    if lowest < low or highest > high:
        raise WrongValue(f"out of the range of {dtype}")


def overflow(dtype: str) -> WrongValue:
    """The error for a finite number that would become infinite."""
    return WrongValue(f"too large for {dtype}")


def not_finite() -> WrongValue:
    """The error for NaN or infinity that the model does not have at the same place already.

    A mask of -inf is a constant of the network, so the model has it too; what training has spoilt it does not have.
    """
    return WrongValue("NaN or infinite where the model is not")


def read(value: Any, to_numpy: Callable[[Any], Any] = np.asarray) -> np.ndarray:
    """Return an entry's values; a view where that is possible.

    Raises:
        WrongKind: If it is no array, or one that has no values or has them no more.
    """
    array = as_numpy(value, to_numpy)
    if array.dtype.kind in "OSU":  # objects or text
        raise WrongKind(f"a {type(value).__name__}, no array with values")
    return array


def as_numpy(value: Any, to_numpy: Callable[[Any], Any] = np.asarray) -> np.ndarray:
    """Return what NumPy makes of it, whatever that is.

    Raises:
        WrongKind: If it cannot be read.
    """
    try:
        return np.asarray(to_numpy(value))
    except MemoryError:
        raise
    except Exception as error:  # each library has its own one for a tensor without values
        reason = str(error).partition("\n")[0]
        raise WrongKind(f"a {type(value).__name__}, which cannot be read: {reason}") from error


def owned_array(
    value: np.ndarray, shape: tuple[int, ...], dtype: Any, own: Callable[[], np.ndarray | None]
) -> np.ndarray:
    """Return a checked copy of a NumPy array in `dtype`; bfloat16 and its like are those of ml_dtypes.

    Args:
        value: Of any shape and dtype.
        shape, dtype: The model's.
        own: Returns the model's values, None where it has none yet; asked only if `value` is not finite.

    Raises:
        WrongKind, WrongValue
    """
    dtype = np.dtype(dtype)
    check_kind(value.dtype.name, dtype.name)
    if value.shape != shape:
        raise WrongValue(f"shape {value.shape}, the model's {shape}")
    kind = kind_of(dtype.name)
    if kind == "integer" and value.dtype != dtype and value.size:
        limits = np.iinfo(dtype)
        check_range(int(value.min()), int(value.max()), int(limits.min), int(limits.max), dtype.name)
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is looked for below
        new = np.array(value, dtype)
    if kind in ("floating point", "complex"):
        bad = ~np.isfinite(new)
        if bad.any():
            if np.isfinite(value)[bad].any():
                raise overflow(dtype.name)
            there = own()
            if there is None or not np.array_equal(new[bad], there[bad], equal_nan=True):
                raise not_finite()
    return new
