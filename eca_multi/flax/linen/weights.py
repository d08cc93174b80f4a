"""Canonical weights in and out of Flax linen."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import core
from flax.core import meta

from eca_multi._canonical import NATIVE_NAMES, Weights, pack, pick, unpack, without_weight
from eca_multi._site_weights import by_site, sites_from_canonical, sites_to_canonical
from eca_multi.flax._network_weights import STEMS, Path, flatten, nest, network_from_canonical, network_to_canonical

Holder = Mapping[str, Any]
_COLLECTIONS = ("params", "batch_stats")


def to_canonical(layer_or_params: Holder) -> Weights:
    """Return the weights of an ECA layer or a network as a canonical dict of NumPy arrays; a copy.

    Args:
        layer_or_params: The variables of an `ECA`, {"params": {"kernel": ...}}, or its {"kernel": ...} alone; or those
            of a network of this package, {"params": ..., "batch_stats": ...}. Or what `eca_state` of a network with
            inserted ECA returned.

    Returns:
        {"weight": array} of shape (k,), or (C, k) for ECA-NS; of a network {name: array}, the running statistics
        included. bfloat16 is widened to float32. Flax estimates a running variance by dividing by the number of values
        n, torch by n - 1: the statistics are passed on as they are.
        Of an `eca_state` {path of the site: array}.

    Raises:
        TypeError: If it is neither. ValueError: If it holds other parameters too.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from eca_multi.flax.linen import ECA, to_canonical
        >>> variables = ECA().init(jax.random.key(0), jnp.ones((2, 14, 14, 64)))
        >>> to_canonical(variables)["weight"].shape
        (3,)
    """
    if kernels := _by_site(layer_or_params):
        return sites_to_canonical("linen", {path: np.asarray(_array(one)) for path, one in kernels.items()})
    if _is_network(layer_or_params):
        return network_to_canonical({path: _array(leaf) for path, leaf in _leaves(layer_or_params).items()})
    return pack("linen", np.asarray(_array(_weight(layer_or_params))))


def from_canonical(
    layer_or_params: Holder, weights: Mapping[str, np.ndarray], *, names: Mapping[str, str] | None = None
) -> Any:
    """Load canonical weights into new variables (or parameters) with the old ones' structure, dtype and sharding box.

    Args:
        layer_or_params: The variables or parameters of an `ECA`, the variables of a network, or what `eca_state`
            returned, which are not changed;
            what `jax.eval_shape(model.init, ...)` returns will do.
        weights: As `to_canonical` of any framework returns.
        names: For what `eca_state` returned: the name in `weights` by the path of the site, where the network of the
            weights has other paths; `dict(zip(plan.paths, other_plan.paths))` makes it of two plans.

    Raises:
        TypeError, ValueError: If a tensor is missing, unexpected, mis-shaped or not finite.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from eca_multi.flax.linen import ECA, from_canonical
        >>> variables = ECA().init(jax.random.key(0), jnp.ones((2, 14, 14, 64)))
        >>> variables = from_canonical(variables, {"weight": np.array([0.1, 0.2, 0.3])})
    """
    if kernels := _by_site(layer_or_params):
        wanted = {path: (kernel.shape, kernel.dtype.name) for path, kernel in kernels.items()}
        new_kernels = sites_from_canonical("linen", wanted, weights, names)
        loads = [jnp.array(new_kernels[path], kernel.dtype, copy=True) for path, kernel in kernels.items()]
        pairs = zip(flatten(layer_or_params["params"]), loads, strict=True)
        state = {"params": nest((path, _like(old, one)) for (path, old), one in pairs)}
        return core.freeze(state) if isinstance(layer_or_params, core.FrozenDict) else state
    if _is_network(layer_or_params):
        leaves = _leaves(layer_or_params)
        new_leaves = network_from_canonical({path: meta.unbox(leaf) for path, leaf in leaves.items()}, weights)
        loaded = {path: _like(leaves[path], jnp.array(array, copy=True)) for path, array in new_leaves.items()}
        variables: dict[str, Any] = dict(layer_or_params)
        for collection in _COLLECTIONS:
            paths = [path for path, _ in flatten(layer_or_params[collection])]
            variables[collection] = nest((path, loaded[path]) for path in paths)
        return core.freeze(variables) if isinstance(layer_or_params, core.FrozenDict) else variables
    old = _weight(layer_or_params)
    value = meta.unbox(old)
    new = jnp.array(unpack("linen", weights, value.shape, value.dtype.name), value.dtype, copy=True)
    params: dict[str, Any] = {NATIVE_NAMES["linen"]: _like(old, new)}
    if "params" in layer_or_params:
        params = {**layer_or_params, "params": params}
    return core.freeze(params) if isinstance(layer_or_params, core.FrozenDict) else params


def _by_site(state: Any) -> dict[str, Any]:
    params = state.get("params") if isinstance(state, Mapping) else None
    return by_site("linen", {"/".join(path): meta.unbox(one) for path, one in flatten(params)}) if params else {}


def _is_network(layer_or_params: Holder) -> bool:
    """Whether the variables are those of a whole network: whether a network's first convolution is in them."""
    params = layer_or_params.get("params", {}) if isinstance(layer_or_params, Mapping) else {}
    return isinstance(params, Mapping) and any(name in params for name in STEMS)


def _leaves(variables: Holder) -> dict[Path, Any]:
    """The parameters and statistics by path, without the collection: no two have the same path."""
    return {path: leaf for name in _COLLECTIONS for path, leaf in flatten(variables.get(name, {}))}


def _like(old: Any, new: jax.Array) -> Any:
    """The new array in the old one's sharding box, if the old one has a box."""
    return old.replace_boxed(new) if isinstance(old, meta.AxisMetadata) else new


def _weight(layer_or_params: Holder) -> Any:
    if not isinstance(layer_or_params, Mapping):
        raise TypeError(
            f"layer_or_params must be the variables of an eca_multi.flax.linen.ECA. "
            f"Received: {type(layer_or_params).__name__}. A linen module holds no weights: pass what init returned."
        )
    return pick("linen", layer_or_params.get("params", layer_or_params))


def _array(weight: Any) -> Any:
    """The values in a leaf; ValueError if `jax.eval_shape` left the shape alone."""
    array = meta.unbox(weight)
    if isinstance(array, jax.ShapeDtypeStruct):
        raise without_weight("variables from eval_shape", "Call init for real.")
    return array
