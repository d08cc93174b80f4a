"""Calls of a linen network with example inputs, real or abstract."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import core
from flax import linen as nn

from .check import check_concrete

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
ALL_BUT_PARAMS = core.DenyList(("params", "intermediates"))
EXAMPLE = (
    "example_inputs must be what the module is called with: one array, a tuple of positional inputs or a dict of "
    "keywords. Received: {}. A linen module knows its submodules and their shapes during a call alone; an array of "
    "zeros of the right shape will do."
)


def split_inputs(example_inputs: Any) -> Inputs:
    """Return positional and keyword inputs.

    Raises:
        TypeError: If there are none. UnsupportedModelError: If JAX traces them.
    """
    if example_inputs is None:
        raise TypeError(EXAMPLE.format("None"))
    if isinstance(example_inputs, dict):
        args, kwargs = (), dict(example_inputs)
    else:
        args, kwargs = (example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)), {}
    if not any(_is_arraylike(leaf) for leaf in jax.tree.leaves((args, kwargs))):
        raise TypeError(EXAMPLE.format(f"{type(example_inputs).__name__} without an array"))
    check_concrete((args, kwargs))
    return tuple(args), kwargs


def runner(
    module: nn.Module, inputs: Inputs, mutable: Any = ALL_BUT_PARAMS
) -> tuple[Callable[[Any, Any], Any], list[Any]]:
    """Return a function of (variables, arrays) that calls the module, and the arrays.

    Collections other than the parameters may change; random streams all come from one key.
    """
    fill, arrays = _split_arrays(inputs)

    def run(variables: Any, arrays: Any) -> Any:
        args, kwargs = fill(arrays)
        # A stream of another name falls back to this one.
        return module.apply(variables, *args, rngs={"params": jax.random.key(0)}, mutable=mutable, **kwargs)

    return run, arrays


def initial_shapes(module: nn.Module, inputs: Inputs) -> Any:
    """Return the shapes of the variables that the module's `init` makes."""
    fill, arrays = _split_arrays(inputs)

    def init(arrays: Any) -> Any:
        args, kwargs = fill(arrays)
        return module.init(jax.random.key(0), *args, **kwargs)

    return jax.eval_shape(init, arrays)


def _split_arrays(inputs: Inputs) -> tuple[Callable[[Any], Inputs], list[Any]]:
    """Return the arrays, and a function that puts arrays in their places; other leaves (a train flag) stay."""
    leaves, tree = jax.tree.flatten(inputs)
    numbers = [i for i, leaf in enumerate(leaves) if _is_arraylike(leaf)]

    def fill(arrays: Any) -> Inputs:
        filled = list(leaves)
        for number, value in zip(numbers, arrays, strict=True):
            filled[number] = value
        return jax.tree.unflatten(tree, filled)

    return fill, [leaves[i] for i in numbers]


def _is_arraylike(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)
