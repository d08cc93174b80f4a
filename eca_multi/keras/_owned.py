"""Load arrays into a model: make checked copies first, then assign all of them or none."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import keras
import numpy as np
from keras import ops

from eca_multi._states import owned_array, read
from eca_multi._undo import undone_on_error

Owner = TypeVar("Owner")


def owned(value: Any, like: Any) -> np.ndarray:
    """Return a checked copy of an array or tensor in the dtype of the variable `like`.

    Raises:
        WrongKind, WrongValue: As `owned_array`.
    """
    dtype = keras.backend.standardize_dtype(like.dtype)
    is_keras = ops.is_tensor(value) or isinstance(value, keras.Variable)
    array = read(value, ops.convert_to_numpy) if is_keras else read(value)
    return owned_array(array, tuple(like.shape), dtype, lambda: values(like))


def values(variable: Any) -> np.ndarray:
    """A copy, never a view: JAX's trainer donates the arrays of the model, which XLA then overwrites."""
    return np.array(ops.convert_to_numpy(variable))


def assign(
    owner: Owner, targets: Mapping[str, Any], new: dict[str, np.ndarray], finish: Callable[[], None] = lambda: None
) -> Owner:
    """Assign all new arrays to the variables, or none, and return their owner.

    It empties `new` on the way: one copy of each name exists at a time. A backend may keep the array itself, so nobody
    else may hold it. `finish` updates the parts that depend on the variables, at the end and again after an undo.
    """
    undo: list[Any] = [finish]
    with undone_on_error(undo):
        for name in list(new):
            undo.append(partial(targets[name].assign, values(targets[name])))
            targets[name].assign(new.pop(name))
        finish()
        return owner
