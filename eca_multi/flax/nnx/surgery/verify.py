"""Prove an insertion in an nnx network by one run before and one after."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from eca_multi.flax._run import are_equal, has_nan, split_inputs
from eca_multi.flax.nnx.layers import ECA
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_numbers, check_verified, did_not_run, differences, probe

from ._find.places import places
from ._find.trace import trace
from ._wrap import NAME, become


def verify(model: nnx.Module, plan: ECAPlan, example_inputs: Any, original: nnx.Module, method: str) -> None:
    """Raise VerifyError unless the network with ECA, against a copy from before, does what the plan says."""
    received: dict[str, tuple[ECA, jax.Array]] = {}
    # Outputs that may change are not compared.
    before = _outputs(original, example_inputs, method) if plan.keeps_output else []
    check_numbers(has_nan(before))
    try:
        outputs = _outputs(model, example_inputs, method, plan, received)
    except Exception as error:
        raise did_not_run(error) from error
    same = not plan.keeps_output or are_equal(before, outputs)
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
    tried = [_tried(entry, plan, *received[entry.path]) for entry in plan.entries if entry.path in received]
    check_verified(plan, same, calls, [wrong for one in tried for wrong in one])


class Recording(ECA):
    """An ECA that notes what it receives; a tensor that JAX traces has no values to note."""

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> jax.Array:
        if _notes.take is not None and not isinstance(x, jax.core.Tracer):
            _notes.take(self, x)
        return super().__call__(x)


class _Notes(threading.local):
    take: Callable[[ECA, jax.Array], None] | None = None


_notes = _Notes()


def _tried(entry: ECAEntry, plan: ECAPlan, layer: ECA, x: jax.Array) -> list[str]:
    """Try an ECA with a kernel off the identity on the tensor that it received."""
    kernel = probe(entry, x)
    layer.kernel.set_value(jnp.asarray(kernel, jnp.float32).reshape(-1, 1, 1))
    return differences(entry, plan.gate, kernel, x, ECA.__call__(layer, x))


def _outputs(
    model: nnx.Module,
    example_inputs: Any,
    method: str,
    plan: ECAPlan | None = None,
    received: dict[str, tuple[ECA, jax.Array]] | None = None,
) -> list[jax.Array]:
    """Run a copy of the model, so that the model's statistics and random streams stay.

    `received` gains, by the site's path, the ECA of the copy and the tensor that the ECA got first.
    """
    args, kwargs = split_inputs(example_inputs)
    copy: Any = nnx.clone(model)
    paths: dict[int, str] = {}
    at = {name: place.module for place in places(copy) for name in place.names}
    for entry in plan.entries if plan is not None else ():
        layer = at[entry.path] if entry.action == "replace" else at[entry.path].eca
        paths[id(layer)] = entry.path
        become(layer, Recording)

    def take(layer: ECA, x: jax.Array) -> None:
        if received is not None and id(layer) in paths:
            received.setdefault(paths[id(layer)], (layer, x))

    try:
        _notes.take = take
        return [leaf for leaf in jax.tree.leaves(getattr(copy, method)(*args, **kwargs)) if isinstance(leaf, jax.Array)]
    finally:
        _notes.take = None
