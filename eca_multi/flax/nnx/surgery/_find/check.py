"""Which networks surgery can change, and what to do with the others."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from eca_multi.flax._foreign import remedy_for
from eca_multi.flax._private import belongs_to_another_trace
from eca_multi.surgery.errors import UnsupportedModelError


def check_model(model: Any) -> None:
    """Refuse anything but an nnx module, and a module that JAX traces."""
    if not isinstance(model, nnx.Module):
        received, remedy = type(model).__name__, remedy_for(model) or "For a linen module use eca_multi.flax.linen."
        if isinstance(model, type) and issubclass(model, nnx.Module):
            received, remedy = f"the class {model.__name__}", f"Make an instance: {model.__name__}(..., rngs=...)."
        elif isinstance(model, nnx.GraphDef | nnx.State):
            remedy = "Put it together first: nnx.merge(graphdef, state)."
        raise TypeError(f"model must be a flax.nnx.Module. Received: {received}. {remedy}")
    holds_tracers = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(nnx.state(model)))
    if holds_tracers or belongs_to_another_trace(model) or isinstance(jnp.zeros(()), jax.core.Tracer):
        raise UnsupportedModelError(
            "model must not be traced while it is changed. Received: a call inside jax.jit, nnx.jit, jax.grad, "
            "jax.vmap or another transformation. Call plan_eca and insert_eca before it; for shapes alone, on what "
            "nnx.eval_shape(lambda: Net(...)) returns."
        )
