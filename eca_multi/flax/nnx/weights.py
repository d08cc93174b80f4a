"""Canonical weights in and out of Flax nnx."""

from collections.abc import Mapping
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eca_multi._canonical import NATIVE_NAMES, Weights, pack, pick, unpack, without_weight
from eca_multi._site_weights import by_site, sites_from_canonical, sites_to_canonical
from eca_multi.flax._network_weights import STEMS, Path, flatten, nest, network_from_canonical, network_to_canonical
from eca_multi.flax._owned import beside

from ._assign import assign
from .layers import ECA
from .networks import ECANetwork

Holder = ECA | ECANetwork | Mapping[str, Any]
_HELD = (nnx.Param, nnx.BatchStat)


def to_canonical(layer_or_params: Holder) -> Weights:
    """Return the weights of an ECA layer or a network as a canonical dict of NumPy arrays; a copy.

    Args:
        layer_or_params: An `ECA` or a network of this package, its `nnx.state`, or the pure dict of that; or what
            `eca_state` of a network with inserted ECA returned.

    Returns:
        {"weight": array} of shape (k,), or (C, k) for ECA-NS; of a network {name: array}, the running statistics
        included. bfloat16 is widened to float32. Flax estimates a running variance by dividing by the number of values
        n, torch by n - 1: the statistics are passed on as they are.
        Of an `eca_state` {path of the site: array}.

    Raises:
        TypeError: If it is none of these. ValueError: If it holds other parameters too.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import ECA, to_canonical
        >>> to_canonical(ECA(64, rngs=nnx.Rngs(0)))["weight"].shape
        (3,)
    """
    if kernels := _by_site(layer_or_params):
        return sites_to_canonical("nnx", {path: np.asarray(_array(one)) for path, one in kernels.items()})
    if _is_network(layer_or_params):
        leaves = {path: _array(leaf) for path, leaf in _leaves(layer_or_params).items()}
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves.values()):
            raise without_weight("a network from eval_shape", "Build it for real, or merge a state with arrays.")
        return network_to_canonical(leaves)
    return pack("nnx", np.asarray(_array(_weight(layer_or_params))))


def from_canonical(
    layer_or_params: Holder, weights: Mapping[str, np.ndarray], *, names: Mapping[str, str] | None = None
) -> Any:
    """Load canonical weights: into a layer in place, or into a new state with the old one's dtype.

    Args:
        layer_or_params: An `ECA` or a network of this package, or its `nnx.state`, pure dict or `eca_state` (which
            are not changed).
        weights: As `to_canonical` of any framework returns.
        names: For what `eca_state` returned: the name in `weights` by the path of the site, where the network of the
            weights has other paths; `dict(zip(plan.paths, other_plan.paths))` makes it of two plans.

    Returns:
        The layer or network, or the new state or dict.

    Raises:
        TypeError, ValueError: If a tensor is missing, unexpected, mis-shaped or not finite; nothing is changed.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import ECA, from_canonical
        >>> layer = from_canonical(ECA(64, rngs=nnx.Rngs(0)), {"weight": np.array([0.1, 0.2, 0.3])})
    """
    if kernels := _by_site(layer_or_params):
        values = {path: _array(one) for path, one in kernels.items()}
        wanted = {path: (value.shape, value.dtype.name) for path, value in values.items()}
        by_path = sites_from_canonical("nnx", wanted, weights, names)
        new_kernels = [
            beside(jnp.array(by_path[path], value.dtype, copy=True), value) for path, value in values.items()
        ]
        pairs = zip(flatten(layer_or_params), new_kernels, strict=True)
        return nest((path, _like(old, new)) for (path, old), new in pairs)
    if _is_network(layer_or_params):
        leaves = _leaves(layer_or_params)
        arrays = network_from_canonical({path: _array(leaf) for path, leaf in leaves.items()}, weights)
        new_arrays = {path: beside(jnp.array(arrays[path], copy=True), _array(leaf)) for path, leaf in leaves.items()}
        if isinstance(layer_or_params, ECANetwork):
            return assign(layer_or_params, leaves, new_arrays)
        loaded = nest((path, _like(leaf, new_arrays[path])) for path, leaf in leaves.items())
        return nnx.State(loaded) if isinstance(layer_or_params, nnx.State) else loaded
    old = _weight(layer_or_params)
    value = _array(old)
    new = beside(jnp.array(unpack("nnx", weights, value.shape, value.dtype.name), value.dtype, copy=True), value)
    if isinstance(layer_or_params, ECA):
        return assign(layer_or_params, {"": old}, {"": new})
    replaced = {NATIVE_NAMES["nnx"]: _like(old, new)}
    return nnx.State(replaced) if isinstance(layer_or_params, nnx.State) else replaced


def _by_site(state: Any) -> dict[str, Any]:
    if not isinstance(state, Mapping):
        return {}
    return by_site("nnx", {".".join(map(str, path)): one for path, one in flatten(state)})


def _is_network(layer_or_params: Holder) -> TypeGuard[ECANetwork | Mapping[str, Any]]:
    """Whether this is a whole network, or a state in which a network's first convolution is."""
    if isinstance(layer_or_params, Mapping):
        return any(name in layer_or_params for name in STEMS)
    return isinstance(layer_or_params, ECANetwork)


def _leaves(network: ECANetwork | Mapping[str, Any]) -> dict[Path, Any]:
    """The parameters and statistics by path; a leaf is a variable, in a pure dict an array."""
    leaves = flatten(nnx.state(network, _HELD) if isinstance(network, ECANetwork) else network)
    return {path: leaf for path, leaf in leaves if not isinstance(leaf, nnx.Variable) or isinstance(leaf, _HELD)}


def _like(old: Any, new: jax.Array) -> Any:
    return old.replace(new) if isinstance(old, nnx.Variable) else new


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
