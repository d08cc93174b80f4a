"""Checked copies of arrays for Flax's trees. This module imports neither linen nor nnx."""

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
    """Return a checked copy of an array in the dtype and on the device of `like`, or else on the array's own device.

    `jnp.asarray` and `jax.device_put` may keep the memory of a NumPy array, or the JAX array itself: a caller who
    writes into the first or donates the second would change the model.

    Args:
        value: Of NumPy, JAX or any other library, on one process or many.
        like: The model's array, or its shape alone (`jax.ShapeDtypeStruct`). For a Python number the copy is one too;
            any other object belongs to its module, and the function returns `like` itself.

    Raises:
        WrongKind, WrongValue: As `owned_array`.
    """
    if isinstance(like, NUMBERS):
        return type(like)(owned_array(_read(value), (), np.asarray(like).dtype, lambda: np.asarray(like)).item())
    if not hasattr(like, "dtype"):
        return like
    if is_key(value) or is_key(like) or (isinstance(value, jax.Array) and not _is_readable(value)):
        return beside(_checked(value, like), like, value)
    is_abstract = isinstance(like, jax.ShapeDtypeStruct)
    array = owned_array(_read(value), tuple(like.shape), like.dtype, lambda: None if is_abstract else read(like))
    return beside(jnp.array(array, copy=True), like, value)


def is_key(value: Any) -> bool:
    has_type = isinstance(value, jax.Array | jax.ShapeDtypeStruct)
    return has_type and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def beside(new: jax.Array, *others: Any) -> jax.Array:
    """Put an array on the device, or over the mesh, of the first of the others that is committed to one."""
    arrays = (other for other in others if isinstance(other, jax.Array) and not isinstance(other, jax.core.Tracer))
    shardings = (array.sharding for array in arrays if array.committed)
    sharding = next(shardings, None)
    return new if sharding is None else jax.device_put(new, sharding)


def copied(value: Any) -> Any:
    """Return a copy of a JAX array; any other value is returned itself."""
    return jnp.array(value, copy=True) if isinstance(value, jax.Array) else value


def _is_readable(value: jax.Array) -> bool:
    return not isinstance(value, jax.core.Tracer) and value.is_fully_addressable


def _read(value: Any) -> np.ndarray:
    if isinstance(value, jax.ShapeDtypeStruct):
        raise WrongKind("a ShapeDtypeStruct, which has no values")
    return read(value)


def _checked(value: Any, like: Any) -> jax.Array:
    """Return a checked copy of an array that this process cannot read as a whole: keys, traced or spread arrays."""
    if not isinstance(value, jax.Array):
        raise WrongKind(f"a {type(value).__name__}, the model's {like.dtype}")
    check_kind(str(value.dtype), str(like.dtype))  # a key's dtype names its generator
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
