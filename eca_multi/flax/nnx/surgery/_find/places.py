"""Where each module hangs in an nnx network, and which modules have an inserted ECA."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from eca_multi.flax.nnx.layers import ECA
from eca_multi.flax.nnx.surgery._wrap import NAME, ReplacingECA, base_class, dotted, is_gated
from eca_multi.surgery.candidate import Candidate, Place, by_module


def places(model: nnx.Module) -> list[Place]:
    """Return each callable module once, the model itself first, in the order of definition if that is kept."""
    return by_module((dotted(path), module) for path, module in _walk((), model, ()))


def _walk(path: tuple[Any, ...], node: Any, above: tuple[int, ...]) -> Iterator[tuple[tuple[Any, ...], nnx.Module]]:
    if isinstance(node, nnx.Module) and callable(node):
        yield path, node
    if id(node) in above:  # a cycle
        return
    for key, child in children(node):
        yield from _walk((*path, key), child, (*above, id(node)))


def children(node: Any) -> list[tuple[Any, Any]]:
    """Return the child nodes by key; attributes in the order of definition (nnx itself sorts attributes)."""
    if isinstance(node, nnx.Variable):
        return []
    keys = {str(key): number for number, key in enumerate(vars(node))} if hasattr(node, "__dict__") else {}
    nodes = [(key, child) for key, child in nnx.iter_children(node) if not isinstance(child, nnx.Variable)]
    return sorted(nodes, key=lambda pair: keys.get(str(pair[0]), 0))


def is_in_order(node: Any) -> bool:
    """Whether the children are in the order of definition: nnx.split and nnx.merge sort the attributes of a copy."""
    names = [str(key) for key, _ in children(node)]
    return isinstance(node, nnx.List | list | tuple) or names != sorted(names)


def installed(model: nnx.Module) -> list[tuple[Candidate, ECA]]:
    """Return the ECAs that surgery inserted with their sites, in the order of definition if that is kept."""
    ecas = []
    for place in places(model):
        is_replacing = isinstance(place.module, ReplacingECA)
        if not is_replacing and not is_gated(place.module):
            continue
        layer: Any = place.module if is_replacing else place.module.eca
        site = Candidate(
            path=place.path,
            module=place.module,
            action="replace" if is_replacing else "after",
            module_type=layer.replaced if is_replacing else base_class(place.module).__name__,
            tensor=f"{place.path}: {'input of the SE block' if is_replacing else 'output'}",
            channels=layer.channels,
            layout="channels_first" if layer.channel_axis == 1 else "channels_last",
            aliases=place.aliases,
            keeps_output=not is_replacing,
            pool_axes=layer.pool_axes,
            causal_axis=layer.causal_axis,
        )
        ecas.append((site, layer))
    return ecas


def kernel_path(site: Candidate) -> str:
    """Return the path of an inserted ECA's kernel in the network's state."""
    names = (site.path, "kernel") if site.action == "replace" else (site.path, NAME, "kernel")
    return ".".join(filter(None, names))


def parameters(model: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def base_parameters(model: nnx.Module) -> int:
    return parameters(model) - sum(layer.kernel.size for _, layer in installed(model))
