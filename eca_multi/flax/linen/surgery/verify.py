"""Prove an insertion in a linen network by one run before and one after."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_multi.flax._run import are_equal, has_nan
from eca_multi.flax.linen.layers import ECA
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_numbers, check_verified, did_not_run, differences, probe

from ._find.call import Call, Run, runner
from ._wrap import NAME, is_eca


def verify(plan: ECAPlan, old: tuple[nn.Module, Any], new: tuple[nn.Module, Any], call: Call) -> None:
    """Raise VerifyError unless the new network does what the plan says.

    Both networks run operation by operation: XLA may fuse, and so round, differently around a product with 1. Each ECA
    is also tried with a kernel off the identity, on the tensor that the ECA received.
    """
    counted: dict[str, int] = {}
    received: dict[str, tuple[ECA, jax.Array]] = {}
    inside: set[str] = set()
    run = Run()

    def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__" or not run.owns(context.module):
            return call(*args, **kwargs)
        path = "/".join(context.module.path)
        if path in inside:
            return call(*args, **kwargs)
        counted[path] = counted.get(path, 0) + 1
        if is_eca(context.module) and args and not isinstance(args[0], jax.core.Tracer):  # under vmap it is one
            received.setdefault(path.removesuffix(f"/{NAME}"), (context.module.clone(), args[0]))
        inside.add(path)
        try:
            return call(*args, **kwargs)
        finally:
            inside.discard(path)

    with jax.disable_jit():
        before = _outputs(*old, call) if plan.keeps_output else None  # outputs that may differ are not compared
        check_numbers(has_nan(jax.tree.leaves(before)))
        try:
            with nn.intercept_methods(watch):
                after = _outputs(*new, call, run)
        except Exception as error:
            raise did_not_run(error) from error
    same = not plan.keeps_output or are_equal(*map(jax.tree.leaves, (before, after)))
    calls = {path: (counted.get(path, 0), counted.get(f"{path}/{NAME}", 0)) for path in plan.paths}
    # The abstract run called each site: one that this run does not call is in a branch of a cond that was not taken.
    calls = {path: times for path, times in calls.items() if any(times)}
    tried = [_tried(entry, plan, *received[entry.path]) for entry in plan.entries if entry.path in received]
    check_verified(plan, same, calls, [wrong for one in tried for wrong in one])


def _tried(entry: ECAEntry, plan: ECAPlan, layer: ECA, x: jax.Array) -> list[str]:
    kernel = probe(entry, x)
    y = layer.apply({"params": {"kernel": jnp.asarray(kernel, jnp.float32).reshape(-1, 1, 1)}}, x)
    return differences(entry, plan.gate, kernel, x, y)


def _outputs(module: nn.Module, variables: Any, call: Call, run: Run | None = None) -> Any:
    apply, arrays = runner(module, call, run=run)
    return apply(variables, arrays)
