"""Run a linen network on its inputs, without ECA's package."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from flax import linen as nn


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
