"""Plan ECA for a network that a command line names: import it by name, find its framework, call that `plan_eca`."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .plan import ECAPlan

# Keras first: on its torch backend, a Keras model is a torch module too.
PACKAGES = {
    "keras": "eca_multi.keras",
    "flax.nnx": "eca_multi.flax.nnx",
    "flax.linen": "eca_multi.flax.linen",
    "torch": "eca_multi.torch",
}


def plan_named(target: str, where: str, input_shape: tuple[int, ...] | None = None, **options: Any) -> ECAPlan:
    """Return the plan of a network.

    Args:
        target: "module:name" or "file.py:name" of a network, or of a function without arguments that returns one. For
            linen the function returns (module, variables, example_inputs).
        where: A kind of place; or exact paths, with commas between them.
        input_shape: Run the network once on float32 zeros of this shape.
        options: As for `plan_eca`.

    Raises:
        ValueError: If the name does not lead to a network, or importing or calling it raises.
        TypeError: If its value is no network of a known framework.
        Exception: Those of `plan_eca`.
    """
    value = _called(_load(target), target)
    parts = value if isinstance(value, tuple) else (value,)
    package = package_of(parts[0])
    if package is None:
        raise TypeError(
            "MODULE:FACTORY must return a network of torch, Keras or Flax. "
            f"Received: {type(parts[0]).__name__}. Return the model."
        )
    is_linen = package == PACKAGES["flax.linen"]
    if len(parts) != (3 if is_linen else 1):
        returned = "(module, variables, example_inputs)" if is_linen else "the model alone"
        raise TypeError(
            f"MODULE:FACTORY must return {returned} for {package}. Received: {len(parts)} values. "
            f"{'A linen module holds no weights.' if is_linen else 'Give inputs by --input-shape.'}"
        )
    if is_linen:
        parts, options["example_inputs"] = parts[:2], parts[2]
    if input_shape is not None:
        zeros = np.zeros(input_shape, np.float32)
        options["example_inputs"] = sys.modules["torch"].from_numpy(zeros) if package == PACKAGES["torch"] else zeros
    plan: ECAPlan = import_module(package).plan_eca(*parts, _place(where), **options)
    return plan


def package_of(model: Any) -> str | None:
    """Return our package for a model's framework, read from its base classes; no framework is imported."""
    homes = [f"{cls.__module__}." for cls in type(model).__mro__]
    return next((package for name, package in PACKAGES.items() if any(h.startswith(f"{name}.") for h in homes)), None)


def _place(text: str) -> str | list[str]:
    """Return a kind of place as it is; text with a comma, a dot or a slash as a list of paths."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return parts if any(sign in text for sign in ",./") else text


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
