"""New layers like old ones: from their config, then variables, states and flags."""

import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any

import keras

from eca_multi._files.scratch import scratch_folder
from eca_multi.keras._owned import values
from eca_multi.surgery.errors import UnsupportedModelError

from ._checks import custom_classes
from ._kinds import kind, parts


def clone_operation(operation: Any) -> Any:
    """Return a new operation of the same config and name, not built."""
    if not isinstance(operation, keras.Layer):  # of keras.ops: it holds its arguments and no weights
        new = copy.copy(operation)
        new._inbound_nodes, new._outbound_nodes = [], []
        return new
    try:
        with keras.saving.custom_object_scope(custom_classes(operation)):
            new = _lambda(operation) if type(operation) is keras.layers.Lambda else _from_config(operation)
    except Exception as error:
        raise UnsupportedModelError(
            f"model must be made of layers that can be made again from their config. "
            f"Received: {operation.name!r} ({kind(operation)}), which cannot: {_first_line(error)}. "
            f"Give {kind(operation)} a get_config that returns the arguments of its __init__."
        ) from error
    new.name = operation.name
    new._remat_mode = operation._remat_mode
    return new


def _from_config(layer: Any) -> Any:
    return type(layer).from_config(layer.get_config())


def _lambda(layer: Any) -> Any:
    """Keras refuses to make a lambda from a config, which might come from a stranger; here it is the user's own."""
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
    )


def copy_state(old: Any, new: Any) -> None:
    """Copy all that a layer has learnt or adapted."""
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
    for one, other in zip(before, after, strict=True):
        other.assign(values(one))
    for one, other in zip(parts(old), parts(new), strict=True):
        _copy_extra(one, other)


def copy_flags(old: Any, new: Any) -> None:
    """Copy which parts of a layer are trained."""
    for one, other in zip(parts(old), parts(new), strict=True):
        other.trainable = one.trainable
    for one, other in zip(old.variables, new.variables, strict=True):
        if other.trainable != one.trainable:
            other.trainable = one.trainable


def _copy_extra(old: Any, new: Any) -> None:
    """States beside variables: statistics of preprocessing layers, vocabularies."""
    if hasattr(new, "finalize_state") and new.built:
        new.finalize_state()
    if hasattr(old, "save_assets"):
        with scratch_folder("eca-assets") as folder:
            old.save_assets(str(folder))
            new.load_assets(str(folder))


@contextlib.contextmanager
def same_random_state() -> Iterator[None]:
    """Initializers without a seed draw one from Python's generator, which users seed: put it back."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else kind(error)
