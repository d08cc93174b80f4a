"""One abstract call of a network: which modules are called, with which shapes, and how values flow between them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_multi.flax._jaxpr.flow import Flow
from eca_multi.flax._jaxpr.tags import tag, tag_input

from ._gated import NAME, base_class, is_eca
from ._inputs import Inputs, runner

Shape = tuple[int, ...]


@dataclass
class Seen:
    """A module that was called.

    Args:
        path: "/"-joined, as in the parameters.
        module: Bound to a call that is over: only its fields can be read.
        shapes: Of its output, one for each call; None where that is not one floating-point array.
        has_eca: Whether an ECA gates it.
    """

    path: str
    module: nn.Module
    shapes: list[Shape | None] = field(default_factory=list)
    has_eca: bool = False

    @property
    def kind(self) -> str:
        return base_class(self.module).__name__


@dataclass
class Trace:
    """What the call showed.

    Args:
        seen: By path, in the order of their first calls; without the root and without ECAs that gate another module.
        flow: Of its values, which carry the modules' paths.
    """

    seen: dict[str, Seen]
    flow: Flow


def trace(module: nn.Module, variables: Any, inputs: Inputs) -> Trace:
    """Call the module abstractly; nothing is computed and nothing changes."""
    seen: dict[str, Seen] = {}
    inside: set[str] = set()

    def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if context.method_name != "__call__" or not path or path in inside:
            return call(*args, **kwargs)
        owner = path.removesuffix(f"/{NAME}")
        if owner != path and owner in seen and is_eca(context.module):
            seen[owner].has_eca = True
            return call(*args, **kwargs)
        one = seen.setdefault(path, Seen(path, context.module))
        args, kwargs = tag_input(path, (args, kwargs))
        inside.add(path)
        try:
            result = call(*args, **kwargs)
        finally:
            inside.discard(path)
        one.shapes.append(tuple(result.shape) if _is_floating(result) else None)
        return tag(path, result)

    run, arrays = runner(module, inputs)
    with nn.intercept_methods(watch):
        jaxpr = jax.make_jaxpr(run)(variables, arrays)
    first = len(jax.tree.leaves(variables))
    return Trace(seen, Flow(jaxpr, range(first, len(jaxpr.jaxpr.invars))))


def _is_floating(value: Any) -> bool:
    return isinstance(value, jax.Array) and bool(jnp.issubdtype(value.dtype, jnp.floating))
