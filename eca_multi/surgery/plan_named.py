"""Plan ECA for a network that a command line names: import it by name, find its framework, call that `plan_eca`."""

import sys
from importlib import import_module
from typing import Any

import numpy as np

from eca_multi._named import PACKAGES, named

from .plan import ECAPlan


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
    package, parts = named(target)
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


def _place(text: str) -> str | list[str]:
    """Return a kind of place as it is; text with a comma, a dot or a slash as a list of paths."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return parts if any(sign in text for sign in ",./") else text
