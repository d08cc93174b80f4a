"""Run a linen network on its inputs, without ECA's package."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict


@dataclass(frozen=True)
class Call:
    """What a network is called with.

    Args:
        arrays: By the name of the argument.
        evaluation, training: Flags by name, for the two ways to run.
    """

    arrays: dict[str, Any]
    evaluation: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Any]:
        return {**self.arrays, **self.evaluation}

    def with_arrays(self, arrays: dict[str, Any]) -> "Call":
        return replace(self, arrays=arrays)


def apply(module: nn.Module, variables: Any, call: Call) -> Any:
    return module.apply(variables, **call.inputs)


def outputs(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def run(module: nn.Module, variables: Any, call: Call) -> list[np.ndarray]:
    """Return all arrays of the outputs, operation by operation."""
    return outputs(apply(module, variables, call))


def random_variables(module: nn.Module, call: Call) -> Any:
    """Draw all variables: a fresh norm has statistics 0 and 1, and a fresh scale may be zero."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = jax.eval_shape(lambda: module.init(rngs, **call.inputs))
    rng = np.random.default_rng(0)
    drawn = {keys: _draw(rng, keys[-1], leaf) for keys, leaf in flatten_dict(dict(shapes)).items()
             if keys[0] != "intermediates"}  # fmt: skip
    return unflatten_dict(drawn)


def _draw(rng: np.random.Generator, name: str, leaf: Any) -> Any:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros(leaf.shape, leaf.dtype)
    if name in ("var", "scale", "gamma") or (len(leaf.shape) < 2 and name not in ("bias", "mean")):
        values = rng.uniform(0.5, 1.5, leaf.shape)
    elif name in ("bias", "mean"):
        values = rng.normal(0, 0.1, leaf.shape)
    else:
        values = rng.normal(0, 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1]))), leaf.shape)
    return jnp.asarray(values, leaf.dtype)
