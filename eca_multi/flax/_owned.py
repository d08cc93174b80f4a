"""Arrays on their way into Flax's trees: checked copies. Neither linen nor nnx is imported here."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_multi._states import (
    NUMBERS,
    WrongKind,
    WrongValue,
    check_kind,
    kind_of,
    not_finite,
    overflow,
    owned_array,
    read,
)


def owned(value: Any, like: Any) -> Any:
    """Return a checked copy of an array in the dtype of `like`, and where `like` was put, or else where it was itself.

    `jnp.asarray` and `jax.device_put` would keep the memory of a NumPy array that is aligned, or the array of JAX
    itself: whoever writes into the one, or donates the other, would change the model.

    Args:
        value: Of NumPy, JAX or any other library, on one process or many.
        like: What the model has, or its shape alone (`jax.ShapeDtypeStruct`), which has no values yet. A number of
            Python stays one; what else is no array belongs to its module and is returned as it is.

    Raises:
        WrongKind: If it is no array with values, or its numbers are of another kind.
        WrongValue: If they are not finite where those of `like` are, or out of range, or of another shape.
    """
    if isinstance(like, NUMBERS):
        return type(like)(owned_array(_read(value), (), np.asarray(like).dtype, lambda: np.asarray(like)).item())
    if not hasattr(like, "dtype"):
        return like
    if is_key(value) or is_key(like) or (isinstance(value, jax.Array) and not _is_readable(value)):
        return beside(_checked(value, like), like, value)
    array = owned_array(_read(value), tuple(like.shape), like.dtype, lambda: _own(like))
    return beside(jnp.array(array, copy=True), like, value)


def is_key(value: Any) -> bool:
    has_type = isinstance(value, jax.Array | jax.ShapeDtypeStruct)
    return has_type and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def beside(new: jax.Array, *others: Any) -> jax.Array:
    """Put an array where the first of the others that was put anywhere was: on its device, or over its mesh."""
    arrays = (one for one in others if isinstance(one, jax.Array) and not isinstance(one, jax.core.Tracer))
    shardings = (array.sharding for array in arrays if array.committed)
    sharding = next(shardings, None)
    return new if sharding is None else jax.device_put(new, sharding)


def copied(value: Any) -> Any:
    """An array of JAX in memory of its own; whatever else it is, the value itself."""
    return jnp.array(value, copy=True) if isinstance(value, jax.Array) else value


def _is_readable(value: jax.Array) -> bool:
    return not isinstance(value, jax.core.Tracer) and value.is_fully_addressable


def _read(value: Any) -> np.ndarray:
    if isinstance(value, jax.ShapeDtypeStruct):
        raise WrongKind("a ShapeDtypeStruct, which has no values")
    return read(value)


def _own(like: Any) -> np.ndarray | None:
    return None if isinstance(like, jax.ShapeDtypeStruct) else read(like)


def _checked(value: Any, like: Any) -> jax.Array:
    """A copy of what this process cannot read as a whole: random keys, arrays over many processes, traced ones."""
    if not isinstance(value, jax.Array):
        raise WrongKind(f"a {type(value).__name__}, the model's {like.dtype}")
    check_kind(str(value.dtype), str(like.dtype))  # of keys, the generator's name is part of it
    if not isinstance(value, jax.core.Tracer) and value.is_deleted():
        raise WrongKind("an array that was deleted or donated")
    if value.shape != tuple(like.shape):
        raise WrongValue(f"shape {value.shape}, the model's {tuple(like.shape)}")
    if is_key(value):
        return jnp.array(value, copy=True)
    new = jnp.array(value, like.dtype, copy=True)
    if kind_of(str(new.dtype)) in ("floating point", "complex") and not isinstance(value, jax.core.Tracer):
        finite = jnp.isfinite(new)
        if not bool((finite | ~jnp.isfinite(value)).all()):
            raise overflow(str(new.dtype))
        same = (new == like) | (jnp.isnan(new) & jnp.isnan(like)) if isinstance(like, jax.Array) else finite
        if not bool((finite | same).all()):
            raise not_finite()
    return new
