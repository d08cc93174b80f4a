"""Prove an insertion in a linen network by one run before and one after."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from eca_multi.flax._run import are_equal
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_verified

from ._find.call import Call, Run, runner
from ._wrap import NAME


def verify(plan: ECAPlan, old: tuple[nn.Module, Any], new: tuple[nn.Module, Any], call: Call) -> None:
    """Raise VerifyError unless the new network does what the plan says.

    Both networks run operation by operation: XLA may fuse, and so round, differently around a product with 1.
    """
    counted: dict[str, int] = {}
    inside: set[str] = set()
    run = Run()

    def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__" or not run.owns(context.module):
            return call(*args, **kwargs)
        path = "/".join(context.module.path)
        if path in inside:
            return call(*args, **kwargs)
        counted[path] = counted.get(path, 0) + 1
        inside.add(path)
        try:
            return call(*args, **kwargs)
        finally:
            inside.discard(path)

    with jax.disable_jit():
        before = _outputs(*old, call) if plan.keeps_output else None  # outputs that may differ are not compared
        with nn.intercept_methods(watch):
            after = _outputs(*new, call, run)
    same = not plan.keeps_output or are_equal(*map(jax.tree.leaves, (before, after)))
    calls = {path: (counted.get(path, 0), counted.get(f"{path}/{NAME}", 0)) for path in plan.paths}
    check_verified(plan, same, calls)


def _outputs(module: nn.Module, variables: Any, call: Call, run: Run | None = None) -> Any:
    apply, arrays = runner(module, call, run=run)
    return apply(variables, arrays)
