"""From entries of a plan to a module with these ECAs, and the shapes of their kernels."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import core
from flax import linen as nn
from flax.core import meta

from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.plan import ECAPlan

from ._candidates import Finder
from ._gated import KERNEL, Site, sites_of, with_sites
from ._inputs import Keys, flat, is_abstract, like, runner

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Built:
    """A module with new ECAs, and their kernels' shapes."""

    module: nn.Module
    sites: list[Site]
    shapes: list[Shape]

    @property
    def entries(self) -> tuple[ECAEntry, ...]:
        return tuple(site.entry for site in self.sites)


def build(finder: Finder, plan: ECAPlan, entries: Sequence[ECAEntry]) -> Built:
    """Return the module with these entries of a plan beside the ECAs that it has."""
    sites = [Site(entry, plan.gate, plan.init, _dtype(finder.variables, entry.path)) for entry in entries]
    module, order = finder.module, {path: number for number, path in enumerate(finder.seen)}

    def with_new(new: Sequence[Site]) -> nn.Module:
        return with_sites(module, sorted((*sites_of(module), *new), key=lambda site: order[site.entry.path]))

    # Under a scan or a vmap the kernel is stacked, so its shape is read from an abstract run that makes it.
    run, arrays = runner(with_new(sites), finder.inputs, mutable=core.DenyList(("intermediates",)))
    made = flat(jax.eval_shape(run, without_replaced(finder.variables, sites), arrays)[1]["params"])
    shapes = [tuple(meta.unbox(made[(*site.keys, *KERNEL)]).shape) for site in sites]
    sites = [replace(site, entry=_sized(site.entry, shape)) for site, shape in zip(sites, shapes, strict=True)]
    return Built(with_new(sites), sites, shapes)


def with_kernels(variables: Mapping[str, Any], built: Built) -> Any:
    """Return the variables with the new kernels, and without the parameters of what is replaced."""
    leaves = flat(without_replaced(variables, built.sites))
    abstract = is_abstract(variables)
    for site, shape in zip(built.sites, built.shapes, strict=True):
        leaves[("params", *site.keys, *KERNEL)] = _kernel(site, shape, abstract)
    return like(variables, leaves)


def without_replaced(variables: Mapping[str, Any], sites: Sequence[Site]) -> Any:
    gone: list[Keys] = [("params", *site.keys) for site in sites if site.entry.action == "replace"]
    if not gone:
        return variables
    kept = {k: leaf for k, leaf in flat(variables).items() if not any(k[: len(g)] == g for g in gone)}
    return like(variables, kept)


def _sized(entry: ECAEntry, shape: Shape) -> ECAEntry:
    if len(shape) == 3:
        return entry
    note = f"stacked {'x'.join(map(str, shape[:-3]))}: a kernel for each"
    notes = entry.notes if note in entry.notes else (*entry.notes, note)
    return replace(entry, parameters=math.prod(shape), notes=notes)


def _dtype(variables: Mapping[str, Any], path: str) -> str:
    """Of the site's parameters; of the network's first where the site has none."""
    tree: Any = variables["params"]
    for key in path.split("/"):
        tree = tree.get(key, {}) if isinstance(tree, Mapping) else {}
    leaves = jax.tree.leaves((tree, variables["params"]))
    return next((str(leaf.dtype) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)), "float32")


def _kernel(site: Site, shape: Shape, abstract: bool) -> Any:
    """Zeros, or numbers that follow from the path: no stream of the user's is drawn from."""
    if abstract:
        return jax.ShapeDtypeStruct(shape, site.dtype)
    if site.init == "identity":
        return jnp.zeros(shape, site.dtype)
    bound = site.entry.kernel_size**-0.5
    key = jax.random.key(zlib.crc32(site.entry.path.encode()))
    return jax.random.uniform(key, shape, site.dtype, -bound, bound)
