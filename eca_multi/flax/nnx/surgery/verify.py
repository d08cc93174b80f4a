"""Prove an insertion in an nnx network by one run before and one after."""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_verified

from ._find.trace import call_arguments, split_inputs, trace
from ._wrap import NAME


def verify(model: nnx.Module, plan: ECAPlan, example_inputs: Any, original: nnx.Module) -> None:
    """Compare a network with ECA with the network before.

    Args:
        model: With ECA.
        plan: What was inserted.
        example_inputs: To run on.
        original: A copy from before.

    Raises:
        VerifyError: If outputs were promised equal and are not, or an ECA was not called as often as its site.
    """
    same = not plan.keeps_output  # outputs that may change are not compared
    if plan.keeps_output:
        same = _are_equal(_outputs(original, example_inputs), _outputs(model, example_inputs))
    if not same:
        # XLA may fuse, and so round differently, a part that the network compiles itself (a scan, an inner jit). The
        # promise is about the operations one by one, so compare these; some networks do not run uncompiled.
        with contextlib.suppress(NotImplementedError), jax.disable_jit():
            same = _are_equal(_outputs(original, example_inputs), _outputs(model, example_inputs))
    flow = trace(model, example_inputs).flow
    calls = {}
    for entry in plan.entries:
        layer = entry.path if entry.action == "replace" else f"{entry.path}.{NAME}"
        calls[entry.path] = (flow.calls(entry.path), flow.calls(layer))
    check_verified(plan, same, calls)


def is_abstract(model: nnx.Module, example_inputs: Any) -> bool:
    """Whether shapes stand for values in the model or in its inputs."""
    leaves = jax.tree.leaves((nnx.state(model), example_inputs))
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def _outputs(model: nnx.Module, example_inputs: Any) -> list[Any]:
    """Run a copy of the model, so that the model's statistics and random streams stay."""
    leaves, tree, where = split_inputs(example_inputs)
    args, kwargs = call_arguments(tree, leaves, where, [leaves[i] for i in where])
    copy: Any = nnx.clone(model)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(copy(*args, **kwargs)) if isinstance(leaf, jax.Array)]


def _are_equal(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether all bits are equal; a NaN equals a NaN of the same bits."""
    return [_bits(array) for array in before] == [_bits(array) for array in after]


def _bits(array: Any) -> tuple[Any, ...]:
    return array.shape, array.dtype, array.tobytes()
