"""Calls of a linen network with example inputs, real or abstract."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import core
from flax import linen as nn

from eca_multi.flax._method import check_method
from eca_multi.flax._run import Inputs, split_arrays, split_inputs
from eca_multi.flax.linen.surgery._wrap.gating import Unique, flag, flag_of

from .check import check_concrete

RUN = "eca_multi_run"  # a flag of a scope
ALL_BUT_PARAMS = core.DenyList(("params", "intermediates"))


@dataclass(frozen=True)
class Call:
    """How a network is called: its inputs, and the name of the method that takes them."""

    inputs: Inputs
    method: str = "__call__"

    def of(self, bound: nn.Module, args: Any, kwargs: Any) -> Any:
        return getattr(bound, self.method)(*args, **kwargs)


class Run(Unique):
    """One call of a network: a flag of the network's scopes that tells them from those of a module applied inside."""

    def owns(self, module: nn.Module) -> bool:
        return module.scope is not None and flag_of(module.scope, RUN) is self


def runner(
    module: nn.Module, call: Call, mutable: Any = ALL_BUT_PARAMS, run: Run | None = None
) -> tuple[Callable[[Any, Any], Any], list[Any]]:
    """Return a function of (variables, arrays) that calls the module, and the arrays.

    Collections other than the parameters may change; random streams all come from one key.
    """
    fill, arrays = split_arrays(call.inputs)

    def begin(bound: nn.Module, *args: Any, **kwargs: Any) -> Any:
        flag(bound, RUN, run or Run())
        return call.of(bound, args, kwargs)

    def apply(variables: Any, arrays: Any) -> Any:
        args, kwargs = fill(arrays)
        # A stream of another name falls back to this one.
        rngs = {"params": jax.random.key(0)}
        return module.apply(variables, *args, rngs=rngs, mutable=mutable, method=begin, **kwargs)

    return apply, arrays


def call_with(module: nn.Module, example_inputs: Any, method: str) -> Call:
    """Return the call with these inputs, which JAX does not trace."""
    check_method(module, method)
    inputs = split_inputs(example_inputs)
    check_concrete(inputs)
    return Call(inputs, method)


def initial_shapes(module: nn.Module, call: Call) -> Any:
    fill, arrays = split_arrays(call.inputs)

    def init(arrays: Any) -> Any:
        args, kwargs = fill(arrays)
        return module.init(jax.random.key(0), *args, method=call.method, **kwargs)

    return jax.eval_shape(init, arrays)
