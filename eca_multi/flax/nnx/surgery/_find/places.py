"""Where each module hangs in an nnx network, and which modules have an inserted ECA."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from eca_multi.flax.nnx.layers import ECA
from eca_multi.flax.nnx.surgery._wrap import NAME, ReplacingECA, base_class, is_gated
from eca_multi.surgery.candidate import Candidate

from .classes import dotted


@dataclass(frozen=True, eq=False)
class Place:
    """A module and all its paths, the first path first."""

    path: str
    module: nnx.Module
    aliases: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.path, *self.aliases)


@dataclass(frozen=True, eq=False)
class Installed:
    """An inserted ECA and its site."""

    place: Place
    layer: ECA

    @property
    def site(self) -> Candidate:
        """The site as `removed_sites` takes it."""
        action = "replace" if isinstance(self.layer, ReplacingECA) else "after"
        return Candidate(self.place.path, self.place.module, action, aliases=self.place.aliases)

    @property
    def module_type(self) -> str:
        return self.layer.replaced if isinstance(self.layer, ReplacingECA) else base_class(self.place.module).__name__

    @property
    def kernel_path(self) -> str:
        """The path of the kernel in the network's state."""
        inner = "" if isinstance(self.layer, ReplacingECA) else f"{NAME}."
        return f"{self.place.path}.{inner}kernel".removeprefix(".")


def places(model: nnx.Module) -> list[Place]:
    """Return each callable module once, the model itself first, in the order of definition if that is kept."""
    names: dict[int, list[str]] = {}
    modules: dict[int, nnx.Module] = {}
    for path, module in _walk((), model, ()):
        modules.setdefault(id(module), module)
        names.setdefault(id(module), []).append(dotted(path))
    return [Place(first, modules[key], tuple(rest)) for key, (first, *rest) in names.items()]


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


def installed(model: nnx.Module) -> list[Installed]:
    """Return the sites with an ECA that surgery inserted."""
    sites = []
    for place in places(model):
        if is_gated(place.module):
            sites.append(Installed(place, place.module.eca))
        elif isinstance(place.module, ReplacingECA):
            sites.append(Installed(place, place.module))
    return sites


def parameters(model: Any) -> int:
    """Return the number of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def base_parameters(model: nnx.Module) -> int:
    """Return the number of parameters without the inserted ECAs."""
    return parameters(model) - sum(eca.layer.kernel.size for eca in installed(model))
