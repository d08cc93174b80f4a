"""What a command line names: a network, or a function that makes one; it is imported by its name."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

# Keras first: on its torch backend, a Keras model is a torch module too.
PACKAGES = {
    "keras": "eca_multi.keras",
    "flax.nnx": "eca_multi.flax.nnx",
    "flax.linen": "eca_multi.flax.linen",
    "torch": "eca_multi.torch",
}


def named(target: str) -> tuple[str, tuple[Any, ...]]:
    """Return our package for the network that a name leads to, and what the name gives: the network, or several values.

    Args:
        target: "module:name" or "file.py:name" of a network, or of a function without arguments that returns one.

    Raises:
        ValueError: If the name does not lead to a network, or importing or calling it raises.
        TypeError: If its value is no network of a known framework.
    """
    value = _called(_load(target), target)
    parts = value if isinstance(value, tuple) else (value,)
    package = package_of(parts[0]) if parts else None
    if package is None:
        raise TypeError(
            "MODULE:FACTORY must return a network of torch, Keras or Flax. "
            f"Received: {type(parts[0]).__name__ if parts else 'an empty tuple'}. Return the model."
        )
    return package, parts


def package_of(model: Any) -> str | None:
    """Return our package for a model's framework, read from its base classes; no framework is imported."""
    homes = [f"{cls.__module__}." for cls in type(model).__mro__]
    return next((package for name, package in PACKAGES.items() if any(h.startswith(f"{name}.") for h in homes)), None)


def _load(target: str) -> Any:
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ValueError(f"MODULE:FACTORY must be module:name or file.py:name. Received: {target!r}.")
    try:
        if place.endswith(".py"):
            names = vars(_from_file(Path(place).resolve()))
        else:
            sys.path.append(os.getcwd())  # an installed command does not look there by itself
            names = vars(import_module(place))
    except (Exception, SystemExit) as error:
        raise ValueError(f"{place} must import. It raised {type(error).__name__}: {error}") from error
    if name not in names:
        functions = [key for key, value in names.items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{place} has no {name!r}. It has: {', '.join(functions) or 'no function'}.")
    return names[name]


def _from_file(path: Path) -> ModuleType:
    sys.path.append(str(path.parent))  # at the end, so that no file beside it hides another module
    spec = spec_from_file_location(f"eca_plan_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no Python file at {path}")
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module  # the module's own classes look for it there
    spec.loader.exec_module(module)
    return module


def _called(value: Callable[[], Any], target: str) -> Any:
    """Return a network as it is, and the result of any other function."""
    if package_of(value) or isinstance(value, tuple):
        return value
    try:
        return value()
    except Exception as error:  # any, from the user's code
        raise ValueError(
            f"{target} must be a function without arguments. It raised {type(error).__name__}: {error}"
        ) from error
