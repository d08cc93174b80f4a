"""The arguments by which a call is told whether it is one of training: each framework has several names for them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from eca_multi.parity.define.axes import SpecError

# Name of an argument -> its value in training.
MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def training_of(arguments: Mapping[str, Any]) -> str:
    """Return the argument that says training, as the text "train=True"; "" where none does."""
    said = (name for name, value in MODES.items() if name in arguments and arguments[name] is value)
    return next((f"{name}={arguments[name]}" for name in said), "")


def may_say(keywords: Mapping[str, Any]) -> bool:
    """Whether keywords that a caller gives may say the mode by a name of the model's own."""
    return bool(keywords) and not MODES.keys() & keywords.keys()


def keywords_for(function: Callable[..., Any], training: bool) -> dict[str, bool]:
    """Return the keywords of a function that put its call into a mode; none where no argument has a name for that."""
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables of C have no signature
        return {}
    return {name: value is training for name, value in MODES.items() if name in known}


def with_mode(name: str, keywords: Mapping[str, Any], found: Mapping[str, bool], training: bool) -> dict[str, Any]:
    """Add the keywords of a mode to those that the caller gives with a model.

    Raises:
        SpecError: If neither the call nor the caller's keywords say the mode, or these say another.
    """
    if other := [key for key in found if key in keywords and bool(keywords[key]) is not found[key]]:
        raise SpecError(
            f"the keywords of {name} must say the mode that training={training} asks for. "
            f"Received: {other[0]}={keywords[other[0]]}."
        )
    if not found:
        raise SpecError(
            f"{name} must have an argument that says training ({', '.join(MODES)}). Received: a call without one. "
            "Leave training out, and give the call's own keywords, as in (module, variables, {'phase': 'train'})."
        )
    return {**found, **keywords}
