"""Whether two models can be compared at all: their modes, devices and dtypes, and what a run does to its inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.structures import leaves

from .elsewhere import RaisedThere
from .model import Arrays, Model, Run


def in_one_mode(reference: Model, port: Model, training: bool | None) -> tuple[Model, Model]:
    """Return both models in the mode that the caller asks for; None leaves each as it is.

    Raises:
        SpecError: If one is in training mode and the other is not, or a mode cannot be given to one.
    """
    if training is not None:
        if not isinstance(training, bool):
            raise TypeError(f"training must be True, False or None. Received: {type(training).__name__}.")
        return reference.in_mode(training), port.in_mode(training)
    modes = {"the reference": reference.training, "the port": port.training}
    told = any(not model.training and model.keywords_alone_say for model in (reference, port))
    for who, place in modes.items():
        if place and not told and not all(modes.values()):
            raise SpecError(
                f"both models must be in the same mode. Received: {who} in training mode, at {place}, and not the "
                "other. Say training=False or training=True, which calls both in one mode."
            )
    return reference, port


def check_alike(reference: Model, port: Model) -> None:
    """Raise SpecError where a model holds no weights, or where devices or dtypes differ."""
    for who, model in (("the reference", reference), ("the port", port)):
        if "meta" in model.devices:
            raise SpecError(f"{who} must hold weights. Received: a model on the meta device, which has none. Load it.")
    for what, of in (("on the same device", lambda model: model.devices), ("of the same dtype", _dtypes)):
        ours, theirs = of(reference), of(port)
        if ours and theirs and ours != theirs:
            raise SpecError(
                f"both models must be {what}. Received: {', '.join(sorted(ours))} for the reference, "
                f"{', '.join(sorted(theirs))} for the port. Move or cast one of them."
            )


def run_of(who: str, model: Model, inputs: Any, dtype: str, cotangents: Arrays | None = None) -> Run:
    """Run a model, and raise SpecError where it raises, or writes into what it gets."""
    try:
        run = model.run(inputs, dtype, cotangents)
    except SpecError:
        raise
    except Exception as error:
        arrays = {name: np.asarray(array) for name, array in leaves("x", inputs).items()}
        shapes = ", ".join(f"{name} {array.shape}{_of_integers(array)}" for name, array in arrays.items())
        kind, text = (error.kind, error.text) if isinstance(error, RaisedThere) else (type(error).__name__, error)
        raise SpecError(
            f"{who} must take the inputs ({shapes}). It raised {kind}: {text}{_remedy(arrays, kind, model.takes)}"
        ) from error
    if run.changed:
        raise SpecError(
            f"{who} must not write into its inputs. Received: another {run.changed[0]!r} after the call. Let the model "
            "copy what it changes."
        )
    return run


def _of_integers(array: np.ndarray) -> str:
    return f" of {array.dtype}" if array.dtype.kind in "iu" else ""


def _remedy(arrays: Mapping[str, np.ndarray], kind: str, takes: str) -> str:
    """Say what the call takes, and what to do where it may want floats: integers stay, since they may be indices."""
    wholes = [name for name, array in arrays.items() if array.dtype.kind in "iu"]
    if kind == "TypeError" and takes:
        return f". Its arguments are {takes}: a tuple of inputs goes to them in order, a dict by name"
    if not wholes or kind in ("IndexError", "KeyError"):
        return ""
    return f". Integers are not converted: if {wholes[0]} holds an image, give it as .astype('float32')"


def _dtypes(model: Model) -> frozenset[str]:
    """Return the dtypes of a model's floating weights."""
    held = {array.dtype.name for array in model.weights().values()}
    return frozenset(name for name in held if "float" in name)
