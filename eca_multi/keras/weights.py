"""Canonical weights in and out of Keras 3."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from eca_multi._canonical import NATIVE_NAMES, Weights, pack, pick, unpack, without_weight
from eca_multi._site_weights import by_site, sites_from_canonical, sites_to_canonical

from ._network_weights import network_from_canonical, network_to_canonical
from ._owned import assign
from .layers import ECA
from .networks import ECANetwork

Holder = ECA | ECANetwork | Mapping[str, Any]


def to_canonical(layer_or_params: Holder) -> Weights:
    """Return the weights of an ECA layer or a network as a canonical dict of NumPy arrays; a copy.

    Args:
        layer_or_params: A built `ECA`, {"kernel": tensor}, or a network of this package; a clone of one, or one that
            Keras has loaded from a file, as well. Or what `eca_state` of a network with inserted ECA returned.

    Returns:
        {"weight": array} of shape (k,), or (C, k) for ECA-NS; of a network {name: array}, the running statistics
        included. bfloat16 is widened to float32. Keras estimates a running variance by dividing by the number of
        values n, torch by n - 1: the statistics are passed on as they are.
        Of an `eca_state` {path of the site: array}.

    Raises:
        TypeError: If it is none of these. ValueError: If it is not built, or holds other tensors too.

    Example:
        >>> from eca_multi.keras import ECA, to_canonical
        >>> layer = ECA()
        >>> layer.build((None, 14, 14, 64))
        >>> to_canonical(layer)["weight"].shape
        (3,)
    """
    if kernels := _by_site(layer_or_params):
        return sites_to_canonical("keras", {path: ops.convert_to_numpy(one) for path, one in kernels.items()})
    if isinstance(layer_or_params, keras.Model):
        return network_to_canonical(layer_or_params)
    return pack("keras", ops.convert_to_numpy(_weight(layer_or_params)))


def from_canonical(
    layer_or_params: Holder, weights: Mapping[str, np.ndarray], *, names: Mapping[str, str] | None = None
) -> Any:
    """Load canonical weights: in place, or into a new {"kernel": tensor} of the old one's dtype.

    Args:
        layer_or_params: A built `ECA`, a network of this package, {"kernel": tensor}, or an `eca_state` (which are
            not changed).
        weights: As `to_canonical` of any framework returns.
        names: For what `eca_state` returned: the name in `weights` by the path of the site, where the network of the
            weights has other paths; `dict(zip(plan.paths, other_plan.paths))` makes it of two plans.

    Returns:
        The layer, the network, or the new dict.

    Raises:
        TypeError, ValueError: If a tensor is missing, unexpected, mis-shaped or not finite; nothing is changed.

    Example:
        >>> import numpy as np
        >>> from eca_multi.keras import ECA, from_canonical
        >>> layer = ECA()
        >>> layer.build((None, 14, 14, 64))
        >>> layer = from_canonical(layer, {"weight": np.array([0.1, 0.2, 0.3])})
    """
    if isinstance(layer_or_params, Mapping) and (kernels := _by_site(layer_or_params)):
        wanted = {path: (tuple(one.shape), keras.backend.standardize_dtype(one.dtype)) for path, one in kernels.items()}
        arrays = sites_from_canonical("keras", wanted, weights, names)
        return {
            name: np.array(arrays[path], wanted[path][1]) for path, name in zip(kernels, layer_or_params, strict=True)
        }
    if isinstance(layer_or_params, keras.Model):
        return network_from_canonical(layer_or_params, weights)
    old = _weight(layer_or_params)
    dtype = keras.backend.standardize_dtype(old.dtype)
    new = np.array(unpack("keras", weights, tuple(old.shape), dtype))  # a backend may keep the array itself
    if isinstance(layer_or_params, ECA):
        return assign(layer_or_params, {"": old}, {"": new})
    return {NATIVE_NAMES["keras"]: ops.convert_to_tensor(new, dtype)}


def _by_site(state: Any) -> dict[str, Any]:
    return by_site("keras", state) if isinstance(state, Mapping) else {}


def _weight(layer_or_params: ECA | Mapping[str, Any]) -> Any:
    if isinstance(layer_or_params, Mapping):
        return pick("keras", layer_or_params)
    if not isinstance(layer_or_params, ECA):
        raise TypeError(
            f"layer_or_params must be an eca_multi.keras.ECA, its weights by name, or a network of this package. "
            f"Received: {type(layer_or_params).__name__}. Pass the ECA layer itself."
        )
    if not layer_or_params.built:
        raise without_weight("an ECA that is not built", "Call it once, or call build(input_shape).")
    return layer_or_params.kernel
