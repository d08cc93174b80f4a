"""The modules of an nnx network, by dotted path, and what they say of themselves without a run."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from eca_multi.surgery.errors import UnsupportedModelError

CONVS = (nnx.Conv, nnx.ConvTranspose)
NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm, nnx.InstanceNorm, nnx.RMSNorm)
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Place:
    """A module and where it is: the first of its paths, all others, and the path of the module that holds it."""

    path: str
    module: nnx.Module
    aliases: tuple[str, ...]


def places(model: nnx.Module) -> list[Place]:
    """Return each callable module once, the model itself first, in the order of definition where that is kept."""
    found: dict[int, list[str]] = {}
    objects: dict[int, nnx.Module] = {}
    for path, module in _walk((), model, ()):
        objects.setdefault(id(module), module)
        found.setdefault(id(module), []).append(dotted(path))
    return [Place(paths[0], objects[key], tuple(paths[1:])) for key, paths in found.items()]


def _walk(path: tuple[Any, ...], node: Any, above: tuple[int, ...]) -> Iterator[tuple[tuple[Any, ...], nnx.Module]]:
    if isinstance(node, nnx.Module) and callable(node):
        yield path, node
    if id(node) in above:  # a cycle
        return
    for key, child in children(node):
        yield from _walk((*path, key), child, (*above, id(node)))


def children(node: Any) -> list[tuple[Any, Any]]:
    """Return the child nodes by key; attributes in the order of definition (nnx itself sorts them)."""
    if isinstance(node, nnx.Variable):
        return []
    keys = {str(key): number for number, key in enumerate(vars(node))} if hasattr(node, "__dict__") else {}
    found = [(key, child) for key, child in nnx.iter_children(node) if not isinstance(child, nnx.Variable)]
    return sorted(found, key=lambda pair: keys.get(str(pair[0]), 0))


def is_in_order(node: Any) -> bool:
    """Whether the order of definition is still there: a copy by nnx.split and nnx.merge has sorted attributes."""
    names = [str(key) for key, _ in children(node)]
    return isinstance(node, nnx.List | list | tuple) or names != sorted(names)


def dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def check_model(model: Any) -> None:
    """Raise unless surgery can be done on the model.

    Raises:
        TypeError: If it is no nnx module. UnsupportedModelError: If JAX is tracing.
    """
    if not isinstance(model, nnx.Module):
        received, remedy = type(model).__name__, "For a linen module use eca_multi.flax.linen."
        if isinstance(model, type) and issubclass(model, nnx.Module):
            received, remedy = f"the class {model.__name__}", f"Make an instance: {model.__name__}(..., rngs=...)."
        elif isinstance(model, nnx.GraphDef | nnx.State):
            remedy = "Put it together first: nnx.merge(graphdef, state)."
        raise TypeError(f"model must be a flax.nnx.Module. Received: {received}. {remedy}")
    state = vars(model).get("_pytree__state")
    elsewhere = state is not None and not state.trace_state.is_valid()
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(nnx.state(model)))
    if traced or elsewhere or isinstance(jnp.zeros(()), jax.core.Tracer):
        raise UnsupportedModelError(
            "model must not be traced while it is changed. Received: a call inside jax.jit, nnx.jit, jax.grad, "
            "jax.vmap or another transformation. Call plan_eca and insert_eca before it."
        )


def variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    """A module's own variables by name; where it has none, the first one below by its dotted path."""
    own = {name: value for name, value in vars(module).items() if isinstance(value, nnx.Variable)}
    if own:
        return own
    below = ((dotted(path), value) for path, value in nnx.iter_graph(module) if isinstance(value, nnx.Variable))
    return dict([first] if (first := next(below, None)) else [])


def parameters(model: Any) -> int:
    """Number of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def static_channels(module: nnx.Module) -> int | None:
    """The channels of a module's output as its constructor was told."""
    if isinstance(module, (*CONVS, nnx.Linear)):
        return module.out_features if isinstance(module.out_features, int) else None
    if not isinstance(module, NORMS):
        return None
    known = getattr(module, "num_features", None)  # GroupNorm does not keep it
    shapes = [variable.shape for variable in (module.scale, module.bias) if isinstance(variable, nnx.Variable)]
    return known or (shapes[0][-1] if shapes else None)


def static_layout(module: nnx.Module) -> str:
    """The layout as its constructor was told, "" where the channels are neither first nor last."""
    axes = getattr(module, "axis", None) if isinstance(module, nnx.BatchNorm) else None
    if axes is None and isinstance(module, nnx.LayerNorm | nnx.RMSNorm):
        axes = module.feature_axes
    axes = (-1,) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
    return {(-1,): "channels_last", (1,): "channels_first"}.get(axes, "")


def static_stack(module: nnx.Module) -> Shape | None:
    """The leading axes of a stacked module's variables (made under nnx.vmap); None where others than the leading."""
    channels = static_channels(module)
    own: dict[str, Shape] = {}
    if isinstance(module, CONVS):
        own = {"kernel": tuple(module.kernel_shape), "bias": (channels or 0,)}
    elif isinstance(module, nnx.Linear):
        own = {"kernel": (module.in_features, channels or 0), "bias": (channels or 0,)}
    elif isinstance(module, NORMS) and static_layout(module):
        own = dict.fromkeys(("scale", "bias", "mean", "var"), (channels or 0,))
    return common_stack(module, own)


def common_stack(module: nnx.Module, used: Mapping[str, Shape]) -> Shape | None:
    """The axes that stand before those of one block in all variables; None where there are others.

    Args:
        module: As it is in the network.
        used: The shapes of one block's variables, by their dotted path from the module.
    """
    found = set()
    for path, shape in used.items():
        variable = _at(module, path)
        if variable is not None:
            extra = len(variable.shape) - len(shape)
            found.add(variable.shape[:extra] if extra >= 0 and variable.shape[extra:] == shape else None)
    return found.pop() if len(found) == 1 else () if not found else None


def _at(module: Any, path: str) -> nnx.Variable | None:
    for key in path.split("."):
        module = next((child for name, child in nnx.iter_children(module) if str(name) == key), vars(module).get(key))
    return module if isinstance(module, nnx.Variable) else None
