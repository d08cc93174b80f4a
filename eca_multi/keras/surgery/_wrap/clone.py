"""New layers like old ones: from their config, then variables, states and flags."""

import random
import warnings
from contextlib import ExitStack
from types import FunctionType
from typing import Any

import keras

from eca_multi._files.scratch import scratch_folder
from eca_multi.keras._owned import values
from eca_multi.keras._private import copied_operation, copy_names, copy_remat_mode, output_shape_of
from eca_multi.keras.surgery._find.kinds import kind, parts
from eca_multi.surgery.errors import UnsupportedModelError


def clone_operation(operation: Any) -> Any:
    """Return a new operation of the same config and name, not built."""
    if not isinstance(operation, keras.Layer):  # of keras.ops: it holds its arguments and no weights
        return copied_operation(operation)
    own_classes = {kind(p): type(p) for p in parts(operation) if not type(p).__module__.startswith("keras.")}
    try:
        with keras.saving.custom_object_scope(own_classes):
            is_lambda = type(operation) is keras.layers.Lambda
            new = _lambda(operation) if is_lambda else type(operation).from_config(_config(operation))
    except Exception as error:
        raise UnsupportedModelError(
            f"model must be made of layers that can be made again from their config. "
            f"Received: {operation.name!r} ({kind(operation)}), which cannot: {_first_line(error)}. "
            f"Give {kind(operation)} a get_config that returns the arguments of its __init__."
        ) from error
    new.name = operation.name
    copy_remat_mode(operation, new)
    return new


def _config(layer: Any) -> dict[str, Any]:
    """Return a layer's config; of Keras's layers with the user's own functions in it, which no file tells whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of a lambda in a file, and nothing is saved here
        config: dict[str, Any] = layer.get_config()
    if type(layer).__module__.startswith("keras."):
        values = {name: getattr(layer, name, None) for name in config}
        config |= {name: value for name, value in values.items() if _is_own_function(value)}
    return config


def _is_own_function(value: Any) -> bool:
    return isinstance(value, FunctionType) and not value.__module__.startswith("keras.")


def _lambda(layer: Any) -> Any:
    """Keras refuses to make a lambda from a config, which might come from a stranger; this function is the user's."""
    return keras.layers.Lambda(
        layer.function,
        output_shape=output_shape_of(layer),
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
    )


def copy_state(old: Any, new: Any) -> None:
    """Copy all that a layer has learnt or adapted, and the names of what is inside, which Keras may have counted."""
    if not isinstance(old, keras.Layer):
        return
    if old.built and not new.built:
        new.build_from_config(old.get_build_config() or {})
    before, after = list(old.variables), list(new.variables)
    if [v.shape for v in before] != [v.shape for v in after]:
        raise UnsupportedModelError(
            "model must be made of layers that a config and a call make again. "
            f"Received: {old.name!r} ({kind(old)}), which has {len(before)} variables, and {len(after)} or others when "
            f"made again. Create them in build, from the arguments of __init__."
        )
    for variable, copy in zip(before, after, strict=True):
        copy.assign(values(variable))
    copy_names(old, new)
    for part, copy in zip(parts(old), parts(new), strict=True):
        _copy_assets(part, copy)


def copy_flags(old: Any, new: Any) -> None:
    """Copy which parts of a layer are trained."""
    for part, copy in zip(parts(old), parts(new), strict=True):
        copy.trainable = part.trainable
    for variable, copy in zip(old.variables, new.variables, strict=True):
        if copy.trainable != variable.trainable:
            copy.trainable = variable.trainable


def _copy_assets(old: Any, new: Any) -> None:
    """Copy states that are no variables: statistics of preprocessing layers, vocabularies."""
    if hasattr(new, "finalize_state") and new.built:
        new.finalize_state()
    if hasattr(old, "save_assets"):
        with scratch_folder("eca-assets") as folder:
            old.save_assets(str(folder))
            new.load_assets(str(folder))


def same_random_state() -> ExitStack:
    """Initializers without a seed draw one from Python's generator, which users seed: put its state back on exit."""
    stack = ExitStack()
    stack.callback(random.setstate, random.getstate())  # no interruption comes between two lines of ours
    return stack


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else kind(error)
