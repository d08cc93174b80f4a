"""Canonical weights in and out of Flax linen."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import core
from flax.core import meta

from eca_multi._canonical import NATIVE_NAMES, Weights, pack, pick, unpack, without_weight


def to_canonical(layer_or_params: Mapping[str, Any]) -> Weights:
    """Return the weights of an ECA layer as a canonical dict of NumPy arrays; a copy.

    Args:
        layer_or_params: The variables of an `ECA`, {"params": {"kernel": ...}}, or its {"kernel": ...} alone.

    Returns:
        {"weight": array} of shape (k,), or (C, k) for ECA-NS; bfloat16 widened to float32.

    Raises:
        TypeError: If it is neither. ValueError: If it holds other parameters too.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from eca_multi.flax.linen import ECA, to_canonical
        >>> variables = ECA().init(jax.random.key(0), jnp.ones((2, 14, 14, 64)))
        >>> to_canonical(variables)["weight"].shape
        (3,)
    """
    kernel = meta.unbox(pick("linen", _params(layer_or_params)))
    if isinstance(kernel, jax.ShapeDtypeStruct):
        raise without_weight("variables from eval_shape", "Call init for real.")
    return pack("linen", np.asarray(kernel))


def from_canonical(layer_or_params: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Any:
    """Return new variables (or parameters) with canonical weights, in the old ones' structure, dtype and sharding box.

    Args:
        layer_or_params: The variables or parameters of an `ECA`, which are not changed.
        weights: As `to_canonical` of any framework returns.

    Raises:
        TypeError, ValueError: If a tensor is missing, unexpected, mis-shaped or not finite.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from eca_multi.flax.linen import ECA, from_canonical
        >>> variables = ECA().init(jax.random.key(0), jnp.ones((2, 14, 14, 64)))
        >>> variables = from_canonical(variables, {"weight": np.array([0.1, 0.2, 0.3])})
    """
    boxed = pick("linen", _params(layer_or_params))
    old = meta.unbox(boxed)
    new = jnp.array(unpack("linen", weights, old.shape, old.dtype.name), old.dtype)
    if isinstance(boxed, meta.AxisMetadata):
        new = boxed.replace_boxed(new)
    params: dict[str, Any] = {NATIVE_NAMES["linen"]: new}
    if "params" in layer_or_params:
        params = {**layer_or_params, "params": params}
    return core.freeze(params) if isinstance(layer_or_params, core.FrozenDict) else params


def _params(layer_or_params: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(layer_or_params, Mapping):
        raise TypeError(
            f"layer_or_params must be the variables of an eca_multi.flax.linen.ECA. "
            f"Received: {type(layer_or_params).__name__}. A linen module holds no weights: pass what init returned."
        )
    return layer_or_params.get("params", layer_or_params)
