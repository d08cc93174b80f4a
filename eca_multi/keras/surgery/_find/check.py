"""Which models surgery can change, and what to say of the others."""

import re
import sys
from typing import Any

import keras
from keras import ops

from eca_multi.keras._private import functional_class, in_stateless_scope
from eca_multi.surgery.errors import UnsupportedModelError

from .kinds import is_container, is_model, kind


def check_model(model: Any) -> None:
    """Refuse a model without a graph to read, and say what to do instead."""
    if not is_model(model):
        is_layer = isinstance(model, keras.Layer)
        raise _unsupported(
            "a Functional or Sequential keras.Model",
            f"the layer {model.name!r} ({kind(model)})" if is_layer else kind(model),
            "Put it into keras.Sequential([...])." if is_layer else "Pass the model itself.",
        )
    if _is_traced():
        raise _unsupported(
            "changed outside of a traced function",
            f"{model.name!r} while a function is being traced",
            "Insert ECA before tf.function, jax.jit or torch.compile.",
        )
    _check_container(model, "")
    if isinstance(model, keras.Sequential) and not model.layers:
        raise _unsupported("a network of layers", f"{model.name!r}, a Sequential without layers", "Add layers before.")
    if hasattr(model, "jax_state_sync"):  # in the middle of fit, where JAX's trainer holds the weights beside the model
        model.jax_state_sync()


def _check_container(model: Any, path: str) -> None:
    name = path or model.name
    if not is_container(model):
        raise _unsupported(
            "made of Functional and Sequential models",
            f"{name!r}, a subclassed model ({kind(model)})",
            "Its graph is Python code that cannot be read: use ECA in its call, or build it with the Functional API.",
        )
    if type(model).call is not keras_class(model).call:
        raise _unsupported(
            "run by its graph",
            f"{name!r}, whose class {kind(model)} has a call of its own",
            f"Build it again as keras.Model(inputs, outputs), or use ECA in {kind(model)}.call.",
        )
    for operation in model.layers if isinstance(model, keras.Sequential) else model.operations:
        if is_model(operation):
            _check_container(operation, f"{path}/{operation.name}" if path else operation.name)


def is_plain(model: Any) -> bool:
    """Whether a model is of Keras's own class."""
    return type(model) is keras_class(model)


def keeps_class(model: Any) -> bool:
    """Whether a model of this class can be made from inputs and outputs alone."""
    return bool(type(model).__init__ is keras_class(model).__init__)


def own_class(model: Any) -> Any:
    """Return a model's class as the user wrote it: the one before insertion, where the model has ECA."""
    return getattr(type(model), "class_without_eca", type(model))


def keras_class(model: Any) -> Any:
    """Return the class of Keras's own that a model with a graph is of."""
    return keras.Sequential if isinstance(model, keras.Sequential) else functional_class(model)


def _is_traced() -> bool:
    torch = sys.modules.get("torch") if keras.backend.backend() == "torch" else None
    if (torch is not None and torch.compiler.is_compiling()) or in_stateless_scope():
        return True
    try:
        ops.convert_to_numpy(ops.zeros((1,)) + 1)
    except Exception:  # each backend has its own error for a tensor without a value
        return True
    return False


def does_not_run(error: Exception) -> UnsupportedModelError:
    """Return the error for a model that raises on the example inputs."""
    return UnsupportedModelError(
        f"model must run on example_inputs. Received: {type(error).__name__}: {first_words(error)}. "
        "Pass what you call the model with: an array, a tuple of inputs, or a dict of inputs by their names."
    )


def first_words(error: BaseException) -> str:
    """Return the part of an error's text that says what is wrong: Keras puts the name of the layer before that part.

    Keras prints that part bold, and lists the arguments of the call behind.
    """
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    text = re.sub("\x1b\\[\\d*m", "", text).partition("Arguments received by")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2]).removesuffix(".") or type(error).__name__


def _unsupported(expected: str, received: str, remedy: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"model must be {expected}. Received: {received}. {remedy}")
