"""Calls of a linen network with example inputs, real or abstract."""

from collections.abc import Callable
from typing import Any

import jax
from flax import core
from flax import linen as nn

from eca_multi.flax._run import Inputs, split_arrays, split_inputs

from .check import check_concrete

ALL_BUT_PARAMS = core.DenyList(("params", "intermediates"))


def concrete_inputs(example_inputs: Any) -> Inputs:
    """Return positional and keyword inputs, which JAX does not trace."""
    inputs = split_inputs(example_inputs)
    check_concrete(inputs)
    return inputs


def runner(
    module: nn.Module, inputs: Inputs, mutable: Any = ALL_BUT_PARAMS
) -> tuple[Callable[[Any, Any], Any], list[Any]]:
    """Return a function of (variables, arrays) that calls the module, and the arrays.

    Collections other than the parameters may change; random streams all come from one key.
    """
    fill, arrays = split_arrays(inputs)

    def run(variables: Any, arrays: Any) -> Any:
        args, kwargs = fill(arrays)
        # A stream of another name falls back to this one.
        return module.apply(variables, *args, rngs={"params": jax.random.key(0)}, mutable=mutable, **kwargs)

    return run, arrays


def initial_shapes(module: nn.Module, inputs: Inputs) -> Any:
    fill, arrays = split_arrays(inputs)

    def init(arrays: Any) -> Any:
        args, kwargs = fill(arrays)
        return module.init(jax.random.key(0), *args, **kwargs)

    return jax.eval_shape(init, arrays)
