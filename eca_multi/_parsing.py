"""What is in a file may be anything: the border at which whatever a parser raises becomes one documented error."""

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
    """Turn what a parser raises into the error that `refuse` makes of a reason.

    Parsers raise nearly everything on bytes that nobody foresaw, RecursionError and MemoryError included. An error of
    the system (a disk that fails, a file that may not be read) is no fault of the content and passes.

    Args:
        refuse: From a reason to an exception that names the file.
        passing: Exceptions that are raised as they are, for they say all that is to be said.

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
        # Libraries give errno EINVAL, or none, to an OSError that is about the content.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise refuse(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's text; of one without a text, the name of its class."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    lines = str(error).strip().splitlines()
    return lines[0][:_LONGEST_REASON] if lines else type(error).__name__


def parse_json(text: str | bytes) -> Any:
    """Return what JSON text holds.

    Raises:
        ValueError: If it is no JSON of UTF-8: NaN and infinity are none, nor is a number that becomes infinity
            (1e999, or 400 digits), nor what is nested so deeply that it cannot be read.
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
