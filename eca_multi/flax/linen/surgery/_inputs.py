"""The arguments that all functions of the surgery take: a module, its variables, example inputs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import core
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_multi.surgery.errors import UnsupportedModelError

Keys = tuple[str, ...]
Inputs = tuple[tuple[Any, ...], dict[str, Any]]
ALL_BUT_PARAMS = core.DenyList(("params", "intermediates"))
EXAMPLE = (
    "example_inputs must be what the module is called with: one array, a tuple of positional inputs or a dict of "
    "keywords. Received: {}. A linen module knows its submodules and their shapes during a call alone; an array of "
    "zeros of the right shape will do."
)


def check_module(module: Any) -> None:
    """Raise unless surgery can be done on the module.

    Raises:
        TypeError: If it is no linen module. UnsupportedModelError: If it is bound, or JAX is tracing.
    """
    check_type(module)
    if module.scope is not None:
        raise UnsupportedModelError(
            f"module must be unbound. Received: a bound {type(module).__name__}. "
            "Use: module, variables = module.unbind()."
        )
    if hasattr(type(module), "eca_base") and "eca_base" not in vars(type(module)):
        raise UnsupportedModelError(
            f"module must be the network itself. Received: {type(module).__name__}, which was derived from one with "
            "ECA. Change that one, and derive or transform (nn.remat, nn.vmap) its type again."
        )
    if isinstance(jnp.zeros(()), jax.core.Tracer):
        raise _traced("a call inside jax.jit")


def check_type(module: Any) -> None:
    if isinstance(module, nn.Module):
        return
    if isinstance(module, type) and issubclass(module, nn.Module):
        received, remedy = f"the class {module.__name__}", f"Make an instance: {module.__name__}(...)."
    else:
        received, remedy = type(module).__name__, "For an nnx module use eca_multi.flax.nnx."
    raise TypeError(f"module must be a flax.linen.Module. Received: {received}. {remedy}")


def check_variables(variables: Any) -> None:
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"variables must be what module.init returned. Received: {type(variables).__name__}. "
            "Pass {'params': ..., 'batch_stats': ...}."
        )
    if "params" not in variables:
        raise ValueError(
            f"variables must hold 'params'. Received: the keys {sorted(variables)}. "
            "Parameters alone go in as {'params': params}."
        )
    _check_concrete(variables)


def split_inputs(example_inputs: Any) -> Inputs:
    """Return positional and keyword inputs.

    Raises:
        TypeError: If there are none.
    """
    if example_inputs is None:
        raise TypeError(EXAMPLE.format("None"))
    if isinstance(example_inputs, dict):
        args, kwargs = (), dict(example_inputs)
    else:
        args, kwargs = (example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)), {}
    if not any(_is_arraylike(leaf) for leaf in jax.tree.leaves((args, kwargs))):
        raise TypeError(EXAMPLE.format(f"{type(example_inputs).__name__} without an array"))
    _check_concrete((args, kwargs))
    return tuple(args), kwargs


def is_abstract(tree: Any) -> bool:
    """Whether shapes stand for values somewhere."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def runner(
    module: nn.Module, inputs: Inputs, mutable: Any = ALL_BUT_PARAMS
) -> tuple[Callable[[Any, Any], Any], list[Any]]:
    """Return a function of (variables, arrays) that calls the module, and the arrays.

    Collections other than the parameters may change; random streams all come from one key.
    """
    rebuild, arrays = _arrays(inputs)

    def run(variables: Any, arrays: Any) -> Any:
        args, kwargs = rebuild(arrays)
        # A stream of another name falls back to this one.
        return module.apply(variables, *args, rngs={"params": jax.random.key(0)}, mutable=mutable, **kwargs)

    return run, arrays


def initial(module: nn.Module, inputs: Inputs) -> Any:
    """Return the shapes of the variables that the module's `init` makes."""
    rebuild, arrays = _arrays(inputs)

    def init(arrays: Any) -> Any:
        args, kwargs = rebuild(arrays)
        return module.init(jax.random.key(0), *args, **kwargs)

    return jax.eval_shape(init, arrays)


def _arrays(inputs: Inputs) -> tuple[Callable[[Any], Inputs], list[Any]]:
    """Take the arrays out; everything else (a train flag) stays as it is."""
    leaves, tree = jax.tree.flatten(inputs)
    places = [i for i, leaf in enumerate(leaves) if _is_arraylike(leaf)]

    def rebuild(arrays: Any) -> Inputs:
        filled = list(leaves)
        for place, value in zip(places, arrays, strict=True):
            filled[place] = value
        return jax.tree.unflatten(tree, filled)

    return rebuild, [leaves[i] for i in places]


def flat(tree: Mapping[str, Any]) -> dict[Keys, Any]:
    """One level, keys joined to tuples; a box of metadata is a leaf, and so is an empty dict."""
    return dict(flatten_dict(core.unfreeze(tree), keep_empty_nodes=True))


def like(old: Any, leaves: Mapping[Keys, Any]) -> Any:
    """The opposite of `flat`; frozen where the old variables are."""
    tree = unflatten_dict(dict(leaves))
    return core.freeze(tree) if isinstance(old, core.FrozenDict) else tree


def count(variables: Mapping[str, Any]) -> int:
    """Number of parameters."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))


def _is_arraylike(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def _check_concrete(tree: Any) -> None:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
        raise _traced("traced arrays")


def _traced(received: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"ECA must be inserted before JAX traces the network. Received: {received}. "
        "Call plan_eca and insert_eca outside jax.jit, jax.grad and jax.vmap."
    )
