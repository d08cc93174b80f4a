"""Canonical weights in and out of Flax nnx."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eca_multi._canonical import NATIVE_NAMES, Weights, pack, pick, unpack, without_weight

from .layers import ECA


def to_canonical(layer_or_params: ECA | Mapping[str, Any]) -> Weights:
    """Return the weights of an ECA layer as a canonical dict of NumPy arrays; a copy.

    Args:
        layer_or_params: An `ECA`, its `nnx.state`, or the pure dict of that.

    Returns:
        {"weight": array} of shape (k,), or (C, k) for ECA-NS; bfloat16 widened to float32.

    Raises:
        TypeError: If it is none of these. ValueError: If it holds other parameters too.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import ECA, to_canonical
        >>> to_canonical(ECA(64, rngs=nnx.Rngs(0)))["weight"].shape
        (3,)
    """
    return pack("nnx", np.asarray(_array(_weight(layer_or_params))))


def from_canonical(layer_or_params: ECA | Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Any:
    """Load canonical weights: into a layer in place, or into a new state with the old one's dtype.

    Args:
        layer_or_params: An `ECA`, or its `nnx.state` or pure dict (which are not changed).
        weights: As `to_canonical` of any framework returns.

    Returns:
        The layer, or the new state or dict.

    Raises:
        TypeError, ValueError: If a tensor is missing, unexpected, mis-shaped or not finite; nothing is changed.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import ECA, from_canonical
        >>> layer = from_canonical(ECA(64, rngs=nnx.Rngs(0)), {"weight": np.array([0.1, 0.2, 0.3])})
    """
    old = _weight(layer_or_params)
    value = _array(old)
    new = jnp.array(unpack("nnx", weights, value.shape, value.dtype.name), value.dtype)
    if isinstance(layer_or_params, ECA):
        layer_or_params.kernel[...] = new
        return layer_or_params
    replaced = {NATIVE_NAMES["nnx"]: old.replace(new) if isinstance(old, nnx.Variable) else new}
    return nnx.State(replaced) if isinstance(layer_or_params, nnx.State) else replaced


def _weight(layer_or_params: ECA | Mapping[str, Any]) -> Any:
    if isinstance(layer_or_params, ECA):
        weight = layer_or_params.kernel
    elif isinstance(layer_or_params, Mapping):
        weight = pick("nnx", layer_or_params)
    else:
        raise TypeError(
            f"layer_or_params must be an eca_multi.flax.nnx.ECA or its state. "
            f"Received: {type(layer_or_params).__name__}. Pass the ECA layer itself."
        )
    if isinstance(_array(weight), jax.ShapeDtypeStruct):
        raise without_weight("an ECA from eval_shape", "Build it for real, or merge a state with arrays.")
    return weight


def _array(weight: Any) -> Any:
    return weight.get_value() if isinstance(weight, nnx.Variable) else weight
