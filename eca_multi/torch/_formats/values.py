"""The values that a pickle of torch holds beside plain data."""

from dataclasses import dataclass
from typing import Any


class CodeError(ValueError):
    """A pickle names a class or function that is no data; the text is its name."""


@dataclass(frozen=True, slots=True, eq=False)
class Other:
    """A value that is no tensor, no number and no text; `what` names the value, whose content is dropped."""

    what: str


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A place of numbers in the file.

    Args:
        key: The file's name for it.
        dtype: NumPy's with the byte order, or "bfloat16"; "" if NumPy has none.
        view: For a view into another storage, the number at which it begins.
    """

    key: Any
    dtype: str
    view: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Pickled:
    """A tensor as the file describes it, not yet checked."""

    storage: Storage
    offset: Any
    shape: Any
    strides: Any
    dtype: str = ""  # "" for the dtype of the storage


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A known class or function that the file names."""

    text: str
