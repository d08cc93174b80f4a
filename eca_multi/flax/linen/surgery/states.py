"""The weights of a linen network and those of its ECAs, apart: two states, for two checkpoints."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta
from flax.traverse_util import empty_node

from eca_multi._states import check_fits, converted, shape_of
from eca_multi.flax._owned import owned
from eca_multi.surgery.errors import no_eca

from ._find.check import check_type
from ._find.variables import Keys, check_variables, flat, like
from ._wrap import KERNEL, no_kernels, sites_of
from .plan import without_replaced
from .remove import without_kernels


def eca_parameters(module: nn.Module, variables: Mapping[str, Any]) -> Any:
    """Return the parameters of the ECAs alone, as a tree in the structure of variables["params"].

    Args:
        module, variables: As `insert_eca` returned them, or trained.

    Raises:
        NoSiteError: If the module has no ECA. ValueError: If a kernel is missing.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import eca_parameters, insert_eca
        >>> net, x = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8)]), jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> net, variables = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> jax.tree.map(jnp.shape, eca_parameters(net, variables))
        {'layers_1': {'eca': {'kernel': (3, 1, 1)}}}
    """
    return eca_state(module, variables)["params"]


def freeze_except_eca(module: nn.Module, variables: Mapping[str, Any]) -> Any:
    """Return a label for each parameter, "eca" or "frozen", as `optax.multi_transform` takes them.

    Statistics of norms are no parameters: call the network as in evaluation where they have to stay, too.

    Args:
        module, variables: As `insert_eca` returned them, or trained.

    Raises:
        NoSiteError: If the module has no ECA. ValueError: If a kernel is missing.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import freeze_except_eca, insert_eca
        >>> net, x = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8)]), jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> net, variables = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> labels = freeze_except_eca(net, variables)
        >>> labels["layers_1"]["bias"], labels["layers_1"]["eca"]
        ('frozen', {'kernel': 'eca'})
        >>> optimizer = optax.multi_transform({"eca": optax.adam(1e-3), "frozen": optax.set_to_zero()}, labels)
        >>> state = optimizer.init(variables["params"])
    """
    kernels = _kernels(module, variables)
    params = variables["params"]
    labels = {
        keys: leaf if leaf is empty_node else "eca" if ("params", *keys) in kernels else "frozen"
        for keys, leaf in flat(params).items()
    }
    return like(params, labels)


def eca_state(module: nn.Module, variables: Mapping[str, Any]) -> Any:
    """Return the variables of the ECAs alone: a file of a few hundred bytes.

    Args:
        module, variables: As `insert_eca` returned them, or trained.

    Raises:
        NoSiteError: If the module has no ECA. ValueError: If a kernel is missing.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn, serialization
        >>> from eca_multi.flax.linen import eca_state, insert_eca
        >>> net, x = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8)]), jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> net, variables = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> data = serialization.msgpack_serialize(eca_state(net, variables))
    """
    kernels = _kernels(module, variables)
    return like(variables, {keys: leaf for keys, leaf in flat(variables).items() if keys in kernels})


def load_eca_state(module: nn.Module, variables: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
    """Return the variables with the kernels of a state that `eca_state` returned.

    Args:
        module: With ECA.
        variables: Of it; their kernels are not used.
        state: From the same sites.

    Returns:
        New variables: copies of the kernels in `state`, and what else `variables` hold, which is not copied.

    Raises:
        TypeError, ValueError: As `load_base_state`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import eca_state, insert_eca, load_eca_state
        >>> net, x = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8)]), jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> net, variables = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> variables = load_eca_state(net, variables, eca_state(net, variables))
    """
    return _loaded(variables, _kernels(module, variables), state, of_eca=True)


def base_state(module: nn.Module, variables: Mapping[str, Any]) -> Any:
    """Return the variables without the ECAs: what the network without ECA takes.

    Args:
        module, variables: With or without ECA.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import base_state, insert_eca
        >>> net, x = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8)]), jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> with_eca, more = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> net.apply(base_state(with_eca, more), x).shape
        (2, 8, 8, 64)
    """
    check_type(module)
    check_variables(variables)
    return without_kernels(variables, sites_of(module))


def load_base_state(module: nn.Module, variables: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
    """Return the variables with the base of a network without ECA, and the kernels back at their start.

    Args:
        module: With ECA.
        variables: Of it, for their structure, shapes and dtypes: new ones, trained ones, or the shapes that
            `jax.eval_shape(module.init, ...)` returns.
        state: Variables of the network without ECA: an old checkpoint. Parameters of SE blocks that ECA replaced are
            left out.

    Returns:
        New variables, which share no memory with `state`.

    Raises:
        ValueError: With every difference between the state and the module's base, or all arrays that hold NaN or
            infinity where `variables` do not (its masks may), or numbers out of range. TypeError: With all that are no
            arrays with values, or not of the kind of those in `variables`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import insert_eca, load_base_state
        >>> net, x = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8)]), jnp.ones((2, 8, 8, 3))
        >>> old = net.init(jax.random.key(0), x)
        >>> net, variables = insert_eca(net, old, "conv_norm", example_inputs=x)
        >>> variables = load_base_state(net, variables, old)
    """
    kernels = _kernels(module, variables, required=False)
    check_variables(state)
    kept = without_replaced(state, sites_of(module))
    base = {keys for keys, leaf in flat(variables).items() if keys not in kernels and leaf is not empty_node}
    loaded = flat(_loaded(variables, base, kept, of_eca=False))
    for site in sites_of(module):
        keys = ("params", *site.keys, *KERNEL)
        if site.gate == "2sigmoid":
            loaded[keys] = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), loaded[keys])
    return like(variables, loaded)


def _kernels(module: nn.Module, variables: Mapping[str, Any], required: bool = True) -> set[Keys]:
    """Return the keys of the kernels, all of which the variables hold."""
    check_type(module)
    check_variables(variables)
    if required and not sites_of(module):
        raise no_eca(type(module).__name__)
    kernels = {("params", *site.keys, *KERNEL) for site in sites_of(module)}
    missing = sorted("/".join(keys[1:]) for keys in kernels - set(flat(variables)))
    if missing:
        raise no_kernels(missing)
    return kernels


def _loaded(variables: Mapping[str, Any], wanted: set[Keys], state: Mapping[str, Any], of_eca: bool) -> Any:
    """Return the variables with those of a state at the wanted keys, of which the state holds exactly these."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state must be nested dicts of variables. Received: {type(state).__name__}. "
            f"Pass what {'eca_state' if of_eca else 'base_state'} returned."
        )
    leaves, values = flat(variables), {k: v for k, v in flat(state).items() if v is not empty_node}
    old = {keys: leaf for keys, leaf in leaves.items() if keys in wanted}
    check_fits(old, values, of_eca, "/".join, lambda leaf: shape_of(meta.unbox(leaf)))
    new = converted({keys: (values[keys], leaf) for keys, leaf in old.items()}, _owned, "/".join)
    return like(variables, {**leaves, **new})


def _owned(new: Any, old: Any) -> Any:
    """Return a checked copy of the new value in the old value's dtype and box."""
    value = owned(meta.unbox(new), meta.unbox(old))
    return old.replace_boxed(value) if isinstance(old, meta.AxisMetadata) else value
