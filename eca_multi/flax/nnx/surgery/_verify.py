"""The proof of an insertion: one run before and one after, and how often each ECA is called."""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_verified

from ._gated import NAME
from ._trace import call_arguments, split_inputs, trace


def outputs(model: nnx.Module, example_inputs: Any) -> list[Any]:
    """Run a copy of the model as it is called in Python, so that its statistics and random streams stay."""
    leaves, tree, where = split_inputs(example_inputs)
    args, kwargs = call_arguments(tree, leaves, where, [leaves[i] for i in where])
    copy: Any = nnx.clone(model)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(copy(*args, **kwargs)) if isinstance(leaf, jax.Array)]


def verify(model: nnx.Module, example_inputs: Any, plan: ECAPlan, original: nnx.Module) -> None:
    """Compare the changed model with what it was.

    Args:
        model: With ECA.
        example_inputs: To run both on.
        plan: What was promised.
        original: A copy from before.

    Raises:
        VerifyError: If outputs were promised equal and are not, or an ECA was not called as often as its site.
    """
    same = None
    if plan.keeps_output:
        same = _are_equal(outputs(original, example_inputs), outputs(model, example_inputs))
    if same is False:
        # Where the network compiles a part of itself (a scan, an inner jit), XLA may fuse and round that part in
        # another way: the promise is about the operations one by one. Not everything runs uncompiled.
        with contextlib.suppress(NotImplementedError), jax.disable_jit():
            same = _are_equal(outputs(original, example_inputs), outputs(model, example_inputs))
    flow = trace(model, example_inputs).flow
    calls = {}
    for entry in plan.entries:
        own = entry.path if entry.action == "replace" else f"{entry.path}.{NAME}"
        calls[entry.path] = (flow.calls(entry.path), flow.calls(own))
    check_verified(plan, same, calls)


def _are_equal(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether all bits are: NaN is as good as any other number here."""
    return [_bits(one) for one in before] == [_bits(one) for one in after]


def _bits(array: Any) -> tuple[Any, ...]:
    return array.shape, array.dtype, array.tobytes()
