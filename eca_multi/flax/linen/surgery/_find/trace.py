"""One abstract call of a network: which modules are called, with which shapes, and how values flow between them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn

from eca_multi._printable import PrintableError
from eca_multi.flax._jaxpr.flow import Flow
from eca_multi.flax._jaxpr.tags import tag, tag_input
from eca_multi.flax._run import Shape, does_not_run, unbound_axis
from eca_multi.flax.linen.surgery._wrap import NAME, base_class, is_eca
from eca_multi.surgery.errors import PlanMismatchError

from .call import Call, Run, runner

MAPPED = "map_variables("  # how flax names a lifted scope
MISFITS = (errors.ScopeParamShapeError, errors.ScopeParamNotFoundError, errors.ScopeCollectionNotFound)


@dataclass
class CalledModule:
    """A module that the network called, bound to a call that is over: only the module's fields can be read.

    `shapes` holds the output's shape for each call, or None where the output is not one floating-point array.
    `is_mapped` says whether a function of `nn.map_variables` (or `nn.WeightNorm`) makes the module's variables.
    """

    path: str
    module: nn.Module
    shapes: list[Shape | None] = field(default_factory=list)
    has_eca: bool = False
    is_mapped: bool = False

    @property
    def kind(self) -> str:
        return base_class(self.module).__name__


def trace(module: nn.Module, variables: Any, call: Call) -> tuple[dict[str, CalledModule], Flow]:
    """Call the module abstractly; nothing is computed and nothing changes.

    Returns:
        The called modules by path, in the order of their first calls, without the root and without ECAs that gate
        another module; and the flow of values, which carry the modules' paths.
    """
    called: dict[str, CalledModule] = {}
    inside: set[str] = set()
    run = Run()

    def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__" or not run.owns(context.module):
            return call(*args, **kwargs)
        path = "/".join(context.module.path)
        if not path or path in inside:
            return call(*args, **kwargs)
        site = path.removesuffix(f"/{NAME}")
        if site != path and site in called and is_eca(context.module):
            called[site].has_eca = True
            return call(*args, **kwargs)
        record = called.setdefault(path, CalledModule(path, context.module))
        record.is_mapped = any(part.startswith(MAPPED) for part in context.module.scope.debug_path)
        if record.is_mapped:  # the module that maps the variables of this one is the site, and alone has tags
            result = call(*args, **kwargs)
            record.shapes.append(tuple(result.shape) if _is_floating(result) else None)
            return result
        args, kwargs = tag_input(path, (args, kwargs))
        inside.add(path)
        try:
            result = call(*args, **kwargs)
        finally:
            inside.discard(path)
        record.shapes.append(tuple(result.shape) if _is_floating(result) else None)
        return tag(path, result)

    apply, arrays = runner(module, call, run=run)
    try:
        with nn.intercept_methods(watch):
            jaxpr, shapes = jax.make_jaxpr(apply, return_shape=True)(variables, arrays)
    except NameError as error:
        raise unbound_axis("module", error) from error
    except MISFITS as error:
        raise PlanMismatchError(
            f"variables must be those of the module. Received: {str(error).partition(' (https')[0]} "
            "Pass what this module's init returned, and inputs of the shape that init took; a replicated state goes "
            "through flax.jax_utils.unreplicate before."
        ) from error
    except PrintableError:  # our own, complete
        raise
    except Exception as error:
        raise does_not_run("module", error) from error
    weights = jax.tree.leaves(variables)
    results = len(jax.tree.leaves(shapes[0]))  # the collections that change come behind them
    return called, Flow(jaxpr, range(len(weights), len(jaxpr.jaxpr.invars)), weights, results)


def _is_floating(value: Any) -> bool:
    return isinstance(value, jax.Array) and bool(jnp.issubdtype(value.dtype, jnp.floating))
