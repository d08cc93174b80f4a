"""Naming an adapter so that a worker, which is another process, can make it again.

A class or function at the top level of a file is named by its place: "module:object" or "file.py:object". Any other,
which a function, a notebook or `functools.partial` has made, travels by value, as cloudpickle writes it.
"""

import os
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from .axes import SpecError

VALUE = "value:"  # begins the source of an object that travels by value: "value:NAME:DATA"


def load_object(source: str, what: str = "adapter") -> Any:
    """Import "module:name" or "file.py:name", or read an object by value; return it or raise SpecError.

    `what` says in an error what the name should lead to.
    """
    if source.startswith(VALUE):
        return _by_value().load(source)
    place, _, name = source.rpartition(":")
    if not place:
        raise SpecError(f"a {what} must be given as file.py:NAME or module:NAME. Received: {source}, without :NAME.")
    module = load_module(place)
    thing: Any = module
    for part in name.split("."):
        if not hasattr(thing, part):
            raise SpecError(f"{place} has no {what} {name!r}. It has: {_names_in(module, what)}.")
        thing = getattr(thing, part)
    return thing


def _names_in(module: ModuleType, what: str) -> str:
    """Return the classes of a module, which adapters are, or for anything else all its public names."""
    if what == "adapter":
        return ", ".join(key for key, value in vars(module).items() if isinstance(value, type)) or "no class"
    named = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    own = [key for key, value in named.items() if not isinstance(value, ModuleType)]
    return ", ".join(own) or "no name"


def load_module(place: str) -> ModuleType:
    """Import a module by name, or a file by path. The file may import modules that lie beside it."""
    try:
        if not place.endswith(".py"):
            return import_module(place)
        path = Path(place).resolve()
        package, root = _package(path.parent)
        name = f"{package}eca_parity_{path.stem}_{abs(hash(str(path)))}"
        if name in sys.modules:
            return sys.modules[name]
        sys.path.extend(map(str, (path.parent, root)))  # at the end: modules beside the file hide no installed ones
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


def _package(folder: Path) -> tuple[str, Path]:
    """Return "package.part." for a folder with __init__.py, "" for any other, and the folder that holds the package.

    With its package's name before its own, a file may import by `from .other import x`.
    """
    name = ""
    while (folder / "__init__.py").is_file():
        name, folder = f"{folder.name}.{name}", folder.parent
    return name, folder


def source_of(thing: Any, what: str) -> str:
    """Return the source under which a worker finds a class or function, or makes the object again.

    Raises:
        SpecError: If the object cannot be named, and cannot be written by value either.
    """
    if isinstance(thing, str):
        return thing
    if not callable(thing) and not hasattr(thing, "build"):
        raise SpecError(
            f'{what} must be an adapter, or "file.py:Class" or "module:Class". Received: {thing!r}. Give the class.'
        )
    return _place_of(thing) or f"{VALUE}{_by_value().pack(thing, what)}"


def label_of(source: str) -> str:
    """Return the name of a source's object for people: "Torch" of "mine.py:Torch"."""
    return source.split(":")[1] if source.startswith(VALUE) else source.rpartition(":")[2]


def _place_of(thing: Any) -> str:
    """Return "module:name" or "file.py:name", or "" for an object that does not stand at the top level of a file."""
    name, module = getattr(thing, "__qualname__", ""), sys.modules.get(getattr(thing, "__module__", None) or "")
    file, found = getattr(module, "__file__", None), module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not name or file is None or found is not thing or not os.path.isfile(file):
        return ""
    importable = thing.__module__.split(".")[0] == "eca_multi"
    return f"{thing.__module__}:{name}" if importable else f"{Path(file).resolve()}:{name}"


def _by_value() -> ModuleType:
    """Return the module that needs cloudpickle, which the interpreter of another environment may lack."""
    return import_module(f"{__package__}.by_value")
