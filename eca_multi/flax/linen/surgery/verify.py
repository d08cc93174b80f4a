"""Prove an insertion in a linen network by one run before and one after."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from eca_multi.flax._run import Inputs, are_equal
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_verified

from ._find.call import runner
from ._wrap import NAME


def verify(plan: ECAPlan, old: tuple[nn.Module, Any], new: tuple[nn.Module, Any], inputs: Inputs) -> None:
    """Raise VerifyError unless the new network does what the plan says.

    Both networks run operation by operation: XLA may fuse, and so round, differently around a product with 1.
    """
    counted: dict[str, int] = {}
    inside: set[str] = set()

    def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if context.method_name != "__call__" or path in inside:
            return call(*args, **kwargs)
        counted[path] = counted.get(path, 0) + 1
        inside.add(path)
        try:
            return call(*args, **kwargs)
        finally:
            inside.discard(path)

    with jax.disable_jit():
        before = _call(*old, inputs) if plan.keeps_output else None  # outputs that may differ are not compared
        with nn.intercept_methods(watch):
            after = _call(*new, inputs)
    same = not plan.keeps_output or are_equal(*map(jax.tree.leaves, (before, after)))
    calls = {path: (counted.get(path, 0), counted.get(f"{path}/{NAME}", 0)) for path in plan.paths}
    check_verified(plan, same, calls)


def _call(module: nn.Module, variables: Any, inputs: Inputs) -> Any:
    run, arrays = runner(module, inputs)
    return run(variables, arrays)
