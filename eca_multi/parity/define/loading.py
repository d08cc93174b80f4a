"""Importing an object that a user names: "module:object" or "file.py:object"."""

import os
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from .axes import SpecError


def load_object(source: str) -> Any:
    """Import "module:name" or "file.py:name", and return the object or raise SpecError."""
    place, _, name = source.rpartition(":")
    module = load_module(place)
    thing: Any = module
    for part in name.split("."):
        if not hasattr(thing, part):
            classes = [key for key, value in vars(module).items() if isinstance(value, type)]
            raise SpecError(f"{place} has no adapter {name!r}. It has: {', '.join(classes) or 'no class'}.")
        thing = getattr(thing, part)
    return thing


def load_module(place: str) -> ModuleType:
    """Import a module by name, or a file by path. The file may import modules that lie beside it."""
    try:
        if not place.endswith(".py"):
            return import_module(place)
        path = Path(place).resolve()
        name = f"eca_parity_{path.stem}_{abs(hash(str(path)))}"
        if name in sys.modules:
            return sys.modules[name]
        sys.path.append(os.path.dirname(path))  # at the end, so that modules beside the file hide no installed ones
        file = spec_from_file_location(name, path)
        if file is None or file.loader is None:
            raise ImportError(f"no Python file at {place}")
        module = module_from_spec(file)
        sys.modules[name] = module
        try:
            file.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    except (Exception, SystemExit) as error:  # SystemExit: the file ends the program
        raise SpecError(f"{place} must import. It raised {type(error).__name__}: {error}") from error
    return module


def source_of(thing: Any, what: str) -> str:
    """Return the "module:name" or "file.py:name" under which a worker finds a class or function.

    Raises:
        SpecError: If it has no file, as in a notebook, or lies inside a function.
    """
    if isinstance(thing, str):
        return thing
    if not callable(thing) or not hasattr(thing, "__qualname__"):
        raise SpecError(
            f'{what} must be a class, or "file.py:Class" or "module:Class". Received: {thing!r}. '
            "Give the class itself, not an instance of it."
        )
    module, name = sys.modules.get(thing.__module__), thing.__qualname__
    file = getattr(module, "__file__", None)
    if file is None or "<" in name:
        raise SpecError(
            f"{what} must be at the top level of a file, where a worker can import it. Received: {name}. "
            "Put it into a file, or use parity.assert_match, which stays in this process."
        )
    importable = thing.__module__.split(".")[0] == "eca_multi"
    return f"{thing.__module__}:{name}" if importable else f"{Path(file).resolve()}:{name}"
