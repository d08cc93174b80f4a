"""The models that a caller has, in this process, one file per framework: weights by path, runs, calls of submodules."""

import sys
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.structures import leaves

from .calls import Call as Call
from .calls import Given as Given
from .model import Model as Model
from .model import Run as Run

__all__ = ["Call", "Given", "Model", "Run", "is_model", "model_of"]


def model_of(thing: Any) -> Model:
    """Return the model of what the caller has.

    Args:
        thing: A torch nn.Module, a Keras layer or model, a Flax nnx module, a linen (module, variables), or
            (function, parameters): a function called as f(parameters, *inputs), with any tree of arrays. A tuple may
            end with a dict of keywords for each call: (module, variables, {"train": False}).

    Raises:
        SpecError: If it is none of these.

    Example:
        >>> import torch
        >>> model_of(torch.nn.Linear(2, 3)).weights()["weight"].shape
        (3, 2)
    """
    if isinstance(thing, Model):
        return thing
    if _is(thing, "keras", "layers.Layer"):
        return _made(f"keras_{sys.modules['keras'].backend.backend()}", "KerasModel", thing)
    if _is(thing, "torch", "nn.Module"):
        return _made("torch", "TorchModel", thing)
    if _is(thing, "flax", "nnx.Module"):
        return _made("nnx", "NnxModel", thing)
    if isinstance(thing, tuple) and len(thing) in (2, 3) and (len(thing) == 2 or isinstance(thing[2], dict)):
        if _is(thing[0], "flax", "linen.Module"):
            return _made("linen", "LinenModel", *thing)
        if callable(thing[0]):
            return _function(*thing)
    raise SpecError(
        "a model must be a torch nn.Module, a Keras layer or model, an nnx module, a linen (module, variables), or "
        f"(function, parameters). Received: {_text(thing)}."
    )


def is_model(thing: Any) -> bool:
    """Whether a thing is a model that needs no weights from elsewhere."""
    kinds = (("keras", "layers.Layer"), ("torch", "nn.Module"), ("flax", "nnx.Module"))
    return isinstance(thing, (Model, tuple)) or any(_is(thing, *kind) for kind in kinds)


def _function(function: Any, parameters: Any, keywords: Any = MappingProxyType({})) -> Model:
    """Return the model of a function, whose parameters say of which framework it is."""
    arrays = list(leaves("w", parameters).values())
    for package, name, place in (("torch", "Tensor", "torch"), ("jax", "Array", "jax")):
        if any(_is(array, package, name) for array in arrays):
            return _made(place, f"{package.capitalize()}Function", function, parameters, keywords)
    if arrays and all(isinstance(array, np.ndarray) for array in arrays):
        return _made("numpy", "NumpyFunction", function, parameters, keywords)
    kinds = ", ".join(sorted({type(array).__name__ for array in arrays})) or "none"
    raise SpecError(
        "the parameters of a function must be torch tensors, JAX arrays or NumPy arrays, in any tree, since they say "
        f"of which framework the function is. Received: {kinds}."
    )


def _is(thing: Any, package: str, name: str) -> bool:
    """Whether a thing is an instance of a class of a package. It cannot be one of a package that is not imported."""
    place: Any = sys.modules.get(package)
    for part in name.split("."):
        place = getattr(place, part, None)
    return place is not None and isinstance(thing, place)


def _made(file: str, name: str, *arguments: Any) -> Model:
    model: Model = getattr(import_module(f"{__name__}.{file}"), name)(*arguments)
    return model


def _text(thing: Any) -> str:
    if isinstance(thing, tuple):
        return f"a tuple of {', '.join(type(item).__name__ for item in thing) or 'nothing'}"
    kind = thing.__name__ if isinstance(thing, type) else type(thing).__name__
    return f"the class {kind}; give an instance" if isinstance(thing, type) else kind
