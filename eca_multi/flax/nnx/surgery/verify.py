"""Prove an insertion in an nnx network by one run before and one after."""

import contextlib
from typing import Any

import jax
from flax import nnx

from eca_multi.flax._run import are_equal, split_inputs
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_verified

from ._find.trace import trace
from ._wrap import NAME


def verify(model: nnx.Module, plan: ECAPlan, example_inputs: Any, original: nnx.Module, method: str) -> None:
    """Raise VerifyError unless the network with ECA, against a copy from before, does what the plan says."""
    same = not plan.keeps_output  # outputs that may change are not compared
    if plan.keeps_output:
        same = are_equal(_outputs(original, example_inputs, method), _outputs(model, example_inputs, method))
    if not same:
        # XLA may fuse, and so round differently, a part that the network compiles itself (a scan, an inner jit). The
        # promise is about the operations one by one, so compare these; some networks do not run uncompiled.
        with contextlib.suppress(NotImplementedError), jax.disable_jit():
            same = are_equal(_outputs(original, example_inputs, method), _outputs(model, example_inputs, method))
    flow = trace(model, example_inputs, method).flow
    calls = {}
    for entry in plan.entries:
        layer = entry.path if entry.action == "replace" else f"{entry.path}.{NAME}"
        calls[entry.path] = (flow.calls(entry.path), flow.calls(layer))
    check_verified(plan, same, calls)


def _outputs(model: nnx.Module, example_inputs: Any, method: str) -> list[jax.Array]:
    """Run a copy of the model, so that the model's statistics and random streams stay."""
    args, kwargs = split_inputs(example_inputs)
    copy: Any = nnx.clone(model)
    return [leaf for leaf in jax.tree.leaves(getattr(copy, method)(*args, **kwargs)) if isinstance(leaf, jax.Array)]
