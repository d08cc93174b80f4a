"""Which models surgery can be done on, and what to say of the others."""

import sys
from typing import Any

import keras
from keras import ops
from keras.src.backend.common.stateless_scope import in_stateless_scope  # without a public name

from eca_multi.surgery.errors import UnsupportedModelError

from ._kinds import is_container, is_model, kind, parts


def check_model(model: Any) -> None:
    """Refuse what has no graph to read.

    Raises:
        UnsupportedModelError: With what to do instead.
    """
    if not is_model(model):
        what = f"the layer {model.name!r} ({kind(model)})" if isinstance(model, keras.Layer) else kind(model)
        remedy = "Put it into keras.Sequential([...])." if isinstance(model, keras.Layer) else "Pass the model itself."
        raise _unsupported("a Functional or Sequential keras.Model", what, remedy)
    if _is_traced():
        raise _unsupported(
            "changed outside of a traced function",
            f"{model.name!r} while a function is being traced",
            "Insert ECA before tf.function, jax.jit or torch.compile.",
        )
    _check_container(model, "")


def _check_container(model: Any, path: str) -> None:
    name = path or model.name
    if not is_container(model):
        raise _unsupported(
            "made of Functional and Sequential models",
            f"{name!r}, a subclassed model ({kind(model)})",
            "Its graph is Python code that cannot be read: use ECA in its call, or build it with the Functional API.",
        )
    if type(model).call is not _base(model).call:
        raise _unsupported(
            "run by its graph",
            f"{name!r}, whose class {kind(model)} has a call of its own",
            f"Build it again as keras.Model(inputs, outputs), or use ECA in {kind(model)}.call.",
        )
    inner = model.layers if isinstance(model, keras.Sequential) else model.operations
    for operation in inner:
        if is_model(operation):
            _check_container(operation, f"{path}/{operation.name}" if path else operation.name)


def keeps_class(model: Any) -> bool:
    """Whether a model of this class can be made from inputs and outputs alone."""
    return bool(type(model).__init__ is _base(model).__init__)


def _base(model: Any) -> Any:
    """keras.Sequential, or the class Functional, which has no public name."""
    if isinstance(model, keras.Sequential):
        return keras.Sequential
    return next(c for c in type(model).__mro__ if c.__name__ == "Functional" and c.__module__.startswith("keras."))


def custom_classes(operation: Any) -> dict[str, type]:
    """The classes inside a layer that Keras may not know by name."""
    return {kind(p): type(p) for p in parts(operation) if not type(p).__module__.startswith("keras.")}


def _is_traced() -> bool:
    torch = sys.modules.get("torch") if keras.backend.backend() == "torch" else None
    if torch is not None and torch.compiler.is_compiling():
        return True
    if in_stateless_scope():  # in which Keras traces layers, and torch's backend calls them with values
        return True
    try:
        ops.convert_to_numpy(ops.zeros((1,)) + 1)
    except Exception:  # each backend has its own error for "this has no value yet"
        return True
    return False


def _unsupported(expected: str, received: str, remedy: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"model must be {expected}. Received: {received}. {remedy}")
