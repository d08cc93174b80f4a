"""The paths of modules, written onto their inputs and outputs in a jaxpr."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

MARK = "eca_multi"


@dataclass(frozen=True)
class Mark:
    """What `tag` wrote: "in" or "out", the number of the array among the module's arrays, and the module's path."""

    kind: str
    leaf: int
    path: str


def tag(path: str, value: Any) -> Any:
    """Return a module's outputs with the module's path on every floating-point array of rank >= 1, values unchanged."""
    return _tagged("out", path, value)


def tag_input(path: str, value: Any) -> Any:
    """Return a module's inputs with the module's path on every floating-point array of rank >= 1."""
    return _tagged("in", path, value)


def _tagged(kind: str, path: str, value: Any) -> Any:
    leaves, tree = jax.tree.flatten(value)
    named = [
        checkpoint_name(leaf, f"{MARK}:{kind}:{i}:{path}") if _is_tensor(leaf) else leaf
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, named)


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and leaf.ndim >= 1 and jnp.issubdtype(leaf.dtype, jnp.floating)


def read_mark(name: str) -> Mark | None:
    """Return what `tag` wrote into a name; None for a name that `tag` did not write."""
    parts = name.split(":", 3)
    if len(parts) != 4 or parts[0] != MARK:
        return None
    return Mark(parts[1], int(parts[2]), parts[3])
