"""The variables of a linen network as one level of keys."""

from collections.abc import Mapping
from math import prod
from typing import Any

import jax
from flax import core
from flax.traverse_util import flatten_dict, unflatten_dict

from .check import check_concrete

Keys = tuple[str, ...]


def check_variables(variables: Any) -> None:
    """Refuse anything but the result of `module.init`, and arrays that JAX traces."""
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
    check_concrete(variables)


def flat(tree: Mapping[str, Any]) -> dict[Keys, Any]:
    """Return the leaves by their joined keys; a box of metadata is a leaf, and so is an empty dict."""
    return dict(flatten_dict(core.unfreeze(tree), keep_empty_nodes=True))


def like(old: Any, leaves: Mapping[Keys, Any]) -> Any:
    """Return nested dicts of the leaves, frozen where the old variables are."""
    tree = unflatten_dict(dict(leaves))
    return core.freeze(tree) if isinstance(old, core.FrozenDict) else tree


def below(tree: Any, keys: Keys) -> Any:
    """Return the mapping at a path; an empty one where the tree has none."""
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return {}
        tree = tree[key]
    return tree if isinstance(tree, Mapping) else {}


def count(tree: Any) -> int:
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(tree))
