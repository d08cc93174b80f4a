"""Adapters by value: what a function, a notebook or `functools.partial` has made, as text that a worker reads.

cloudpickle writes the object, with the functions of its own file or notebook; modules that can be imported are named.
"""

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle

from .axes import SpecError

LARGEST = 96 << 10  # bytes: the text is an argument of the worker's command line, and Linux allows 128 KiB


def pack(thing: Any, what: str) -> str:
    """Return an object as "NAME:DATA".

    Raises:
        SpecError: If the object holds what cannot be written, or too much.
    """
    remedy = 'Put it at the top level of a file and give "file.py:Class", or use parity.assert_match in this process.'
    home = _home(thing)
    name = home.__qualname__.replace(":", ".")
    try:
        with _with_its_file(home.__module__):
            written = cloudpickle.dumps(thing)
    except Exception as error:  # whatever the object holds may refuse: a lock, a file, a module of C
        raise SpecError(
            f"{what} must be at the top level of a file, or hold what can be sent to a worker. Received: {name}, "
            f"which raised {type(error).__name__}: {error}. {remedy}"
        ) from error
    about = {"python": sys.version_info[:2], "path": sys.path, "object": base64.b64encode(written).decode()}
    data = base64.b64encode(json.dumps(about).encode()).decode()
    if len(data) > LARGEST:
        raise SpecError(
            f"{what} must hold little data, since it is sent to a worker by value. Received: {name}, of "
            f"{len(data) >> 10} KiB, and {LARGEST >> 10} are the most. {remedy}"
        )
    return f"{name}:{data}"


def load(source: str) -> Any:
    """Make the object of "value:NAME:DATA" again.

    Raises:
        SpecError: If this interpreter cannot.
    """
    _, name, data = source.split(":", 2)
    try:
        about = json.loads(base64.b64decode(data))
        if tuple(about["python"]) != sys.version_info[:2]:
            raise ImportError("another version of Python wrote it; a file can be imported by any")
        sys.path.extend(folder for folder in about["path"] if folder not in sys.path)
        return cloudpickle.loads(base64.b64decode(about["object"]))
    except Exception as error:
        raise SpecError(f"{name} must load in a worker. It raised {type(error).__name__}: {error}") from error


def _home(thing: Any) -> Any:
    """Return the class or function that knows its module: that of a partial, or the class of an object."""
    function = getattr(thing, "func", thing)
    return function if hasattr(function, "__qualname__") else type(function)


@contextmanager
def _with_its_file(name: str) -> Iterator[None]:
    """Write the functions of an object's own file by value too: a worker may be unable to import the file by name."""
    module = sys.modules.get(name)
    if module is None or name.partition(".")[0] in ("__main__", "eca_multi"):  # __main__ is written so anyway
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)
