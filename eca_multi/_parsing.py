"""The border to the content of files: whatever a parser raises there becomes one documented error."""

import errno
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_MOST_DIGITS = 300  # a whole number of more digits is no finite float
_LONGEST_REASON = 300  # characters: some libraries put the whole input into their message


@contextmanager
def parsing(refuse: Callable[[str], Exception], *passing: type[Exception]) -> Iterator[None]:
    """Turn an exception of a parser into the error that `refuse` makes of its reason.

    On unforeseen bytes, parsers raise nearly everything, RecursionError and MemoryError included. An error of the
    system (a disk that fails, a file without permission to read) is no fault of the content and passes.

    Args:
        refuse: Makes of a reason the exception that names the file.
        passing: Classes of exceptions that pass unchanged, because their text is complete.

    Example:
        >>> from eca_multi._parsing import parsing
        >>> with parsing(lambda reason: ValueError(f"a.json must be JSON. Received: {reason}.")):
        ...     [][0]
        Traceback (most recent call last):
        ValueError: a.json must be JSON. Received: list index out of range.
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:
        # An OSError of a library about the content has errno EINVAL, or none.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise refuse(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class if it has no text."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    lines = str(error).strip().splitlines()
    return lines[0][:_LONGEST_REASON] if lines else type(error).__name__


def parse_json(text: str | bytes) -> Any:
    """Return what JSON text holds.

    Raises ValueError if the text is no JSON in UTF-8, is nested too deeply, or has NaN, infinity or a number that
    becomes infinity (1e999, or 400 digits).
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number
