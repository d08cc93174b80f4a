"""The command line of surgery: `eca-multi plan MODULE:FACTORY`. It loads a network, calls plan_eca and prints."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from eca_multi._terminal import say
from eca_multi.surgery.errors import NoSiteError
from eca_multi.surgery.plan import ECAPlan

# Keras first: on its torch backend a Keras model is a torch module too.
PACKAGES = {
    "keras": "eca_multi.keras",
    "flax.nnx": "eca_multi.flax.nnx",
    "flax.linen": "eca_multi.flax.linen",
    "torch": "eca_multi.torch",
}


def plan(
    target: Annotated[
        str,
        typer.Argument(
            help="A function without arguments that returns a network, or the network: module:name or file.py:name. "
            "For linen it returns (module, variables, example_inputs).",
            metavar="MODULE:FACTORY",
        ),
    ],
    where: Annotated[
        str,
        typer.Option(help="residual, block, conv_norm, conv, norm, se or slot; or exact paths, with commas between."),
    ] = "residual",
    include: Annotated[str | None, typer.Option(help="Only paths that match this regular expression.")] = None,
    exclude: Annotated[str | None, typer.Option(help="No paths that match this regular expression.")] = None,
    min_channels: Annotated[int, typer.Option(help="Leave sites with fewer channels.")] = 0,
    kernel_size: Annotated[int | None, typer.Option(help="Odd; by default the rule chooses one per site.")] = None,
    gate: Annotated[str, typer.Option(help="2sigmoid, sigmoid or hard_sigmoid.")] = "2sigmoid",
    init: Annotated[str, typer.Option(help="identity or uniform.")] = "identity",
    input_shape: Annotated[
        str | None, typer.Option(help="As in 1,3,224,224: run the network once on float32 zeros of this shape.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the plan to this file.")] = None,
) -> None:
    """Show where ECA would go in a network, and change nothing."""
    shape = _shape(input_shape)
    found = _call(_load(target), target)
    options = {"include": include, "exclude": exclude, "min_channels": min_channels, "kernel_size": kernel_size}
    try:
        made = _plan(found, _where(where), shape, {**options, "gate": gate, "init": init})
        if json_file is not None:
            made.save(json_file)
    except (NoSiteError, TypeError, ValueError, ImportError, OSError) as error:
        raise _wrong(str(error)) from error
    say(made)


def package_of(model: Any) -> str | None:
    """The package for a model's framework, by the classes that it is made of; no framework is imported for it."""
    homes = [f"{kind.__module__}." for kind in type(model).__mro__]
    return next((package for name, package in PACKAGES.items() if any(h.startswith(f"{name}.") for h in homes)), None)


def _plan(found: Any, where: Any, shape: tuple[int, ...] | None, options: dict[str, Any]) -> ECAPlan:
    parts = found if isinstance(found, tuple) else (found,)
    package = package_of(parts[0])
    if package is None:
        raise TypeError(
            "MODULE:FACTORY must return a network of torch, Keras or Flax. "
            f"Received: {type(parts[0]).__name__}. Return the model."
        )
    if len(parts) != (wanted := 3 if package.endswith("linen") else 1):
        returned = "(module, variables, example_inputs)" if wanted == 3 else "the model alone"
        raise TypeError(
            f"MODULE:FACTORY must return {returned} for {package}. Received: {len(parts)} values. "
            f"{'A linen module holds no weights.' if wanted == 3 else 'Give inputs by --input-shape.'}"
        )
    if wanted == 3:
        parts, options["example_inputs"] = parts[:2], parts[2]
    if shape is not None:
        options["example_inputs"] = _zeros(shape, package)
    result: ECAPlan = import_module(package).plan_eca(*parts, where, **options)
    return result


def _zeros(shape: tuple[int, ...], package: str) -> Any:
    import numpy as np

    zeros = np.zeros(shape, np.float32)
    return sys.modules["torch"].from_numpy(zeros) if package == "eca_multi.torch" else zeros


def _where(text: str) -> str | list[str]:
    """A word is a kind of place; with a comma, a dot or a slash it is paths."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return parts if any(sign in text for sign in ",./") else text


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 0:
        raise _wrong(f"--input-shape must be numbers with commas between, as in 1,3,224,224. Received: {text!r}.")
    return shape


def _load(target: str) -> Any:
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise _wrong(f"MODULE:FACTORY must be module:name or file.py:name. Received: {target!r}.")
    try:
        names = vars(_from_file(Path(place).resolve()) if place.endswith(".py") else _by_name(place))
    except (Exception, SystemExit) as error:
        raise _wrong(f"{place} must import. It raised {type(error).__name__}: {error}") from error
    if name not in names:
        own = [key for key, value in names.items() if callable(value) and not key.startswith("_")]
        raise _wrong(f"{place} has no {name!r}. It has: {', '.join(own) or 'no function'}.")
    return names[name]


def _by_name(place: str) -> ModuleType:
    sys.path.append(os.getcwd())  # an installed command does not look there by itself
    return import_module(place)


def _from_file(path: Path) -> ModuleType:
    sys.path.append(str(path.parent))  # at the end: what lies beside the file hides nothing
    file = spec_from_file_location(f"eca_plan_{path.stem}", path)
    if file is None or file.loader is None:
        raise ImportError(f"no Python file at {path}")
    module = module_from_spec(file)
    sys.modules[module.__name__] = module  # where its own classes look for it
    file.loader.exec_module(module)
    return module


def _call(found: Callable[[], Any], target: str) -> Any:
    if package_of(found) or isinstance(found, tuple):
        return found
    try:
        return found()
    except Exception as error:  # whatever the user's code raises
        raise _wrong(
            f"{target} must be a function without arguments. It raised {type(error).__name__}: {error}"
        ) from error


def _wrong(text: str) -> typer.Exit:
    say(" ".join(text.split()), err=True)
    return typer.Exit(2)
