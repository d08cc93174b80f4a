"""Canonical weights in and out of PyTorch."""

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import torch

from eca_multi._canonical import NATIVE_NAMES, Weights, pack, pick, unpack, without_weight
from eca_multi._site_weights import by_site, sites_from_canonical, sites_to_canonical

from ._network_weights import network_from_canonical, network_to_canonical, to_array
from ._owned import assign
from .layers import ECA
from .networks import ECANetwork

Holder = ECA | ECANetwork | Mapping[str, torch.Tensor]
_STEMS = ("conv1.weight", "conv1.0.weight", "features.0.0.weight")


def to_canonical(layer_or_params: Holder) -> Weights:
    """Return the weights of an ECA layer or a network as a canonical dict of NumPy arrays; a copy.

    Args:
        layer_or_params: An `ECA`, a network of this package, or the state dict of one; of a network also the original
            ECANet's or timm's. Or what `eca_state` of a network with inserted ECA returned.

    Returns:
        {"weight": array} of shape (k,), or (C, k) for ECA-NS; of a network {name: array}, the running statistics
        included. bfloat16 is widened to float32.
        Of an `eca_state` {path of the site: array}.

    Raises:
        TypeError: If it is none of these. ValueError: If it holds no weights yet, or other tensors too.

    Example:
        >>> from eca_multi.torch import ECA, to_canonical
        >>> to_canonical(ECA(64))["weight"].shape
        (3,)
    """
    if kernels := _by_site(layer_or_params):
        return sites_to_canonical("torch", {path: to_array(kernel) for path, kernel in kernels.items()})
    if _is_network(layer_or_params):
        return network_to_canonical(layer_or_params)
    return pack("torch", to_array(_weight(layer_or_params)))


def from_canonical(
    layer_or_params: Holder, weights: Mapping[str, np.ndarray], *, names: Mapping[str, str] | None = None
) -> Any:
    """Load canonical weights: in place, or into a new state dict with the old one's dtypes and devices.

    Args:
        layer_or_params: An `ECA`, a network of this package, or the state dict of one, or an `eca_state`
            (which are not changed).
        weights: As `to_canonical` of any framework returns.
        names: For what `eca_state` returned: the name in `weights` by the path of the site, where the network of the
            weights has other paths; `dict(zip(plan.paths, other_plan.paths))` makes it of two plans.

    Returns:
        The layer, the network, or the new state dict.

    Raises:
        TypeError, ValueError: If a tensor is missing, unexpected, mis-shaped or not finite; nothing is changed.

    Example:
        >>> import numpy as np
        >>> from eca_multi.torch import ECA, from_canonical
        >>> layer = from_canonical(ECA(64), {"weight": np.array([0.1, 0.2, 0.3])})
    """
    if isinstance(layer_or_params, Mapping) and (kernels := _by_site(layer_or_params)):
        wanted = {path: (tuple(kernel.shape), _dtype(kernel)) for path, kernel in kernels.items()}
        arrays = sites_from_canonical("torch", wanted, weights, names)
        return {
            name: torch.tensor(arrays[path], dtype=kernel.dtype, device=kernel.device)
            for (path, kernel), name in zip(kernels.items(), layer_or_params, strict=True)
        }
    if _is_network(layer_or_params):
        return network_from_canonical(layer_or_params, weights)
    old = _weight(layer_or_params)
    array = unpack("torch", weights, old.shape, _dtype(old))
    new = torch.tensor(array, dtype=old.dtype, device=old.device)
    if isinstance(layer_or_params, Mapping):
        return {NATIVE_NAMES["torch"]: new}
    return assign(layer_or_params, {"": old.detach()}, {"": new})


def _by_site(state: Any) -> dict[str, torch.Tensor]:
    return by_site("torch", state) if isinstance(state, Mapping) else {}


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _is_network(layer_or_params: Holder) -> TypeGuard[ECANetwork | Mapping[str, torch.Tensor]]:
    """Whether this is a whole network, or a mapping in which a network's first convolution is."""
    if isinstance(layer_or_params, Mapping):
        return any(str(name).endswith(_STEMS) for name in layer_or_params)
    return isinstance(layer_or_params, ECANetwork)


def _weight(layer_or_params: Holder) -> torch.Tensor:
    if isinstance(layer_or_params, Mapping):
        weight = pick("torch", layer_or_params)
    elif isinstance(layer_or_params, ECA):
        weight = layer_or_params.conv.weight
    else:
        raise TypeError(
            f"layer_or_params must be an eca_multi.torch.ECA, a network of this package, or the state dict of one. "
            f"Received: {type(layer_or_params).__name__}. Pass the ECA layer itself."
        )
    if torch.nn.parameter.is_lazy(weight):
        raise without_weight("LazyECA", "Call it once on an input.")
    if weight.is_meta:
        raise without_weight("an ECA on the meta device", "Call to_empty(device=...) first.")
    return weight
