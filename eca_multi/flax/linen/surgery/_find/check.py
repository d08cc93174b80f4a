"""Which linen modules surgery can change, and what to say of the others."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_multi.flax._foreign import remedy_for
from eca_multi.surgery.errors import UnsupportedModelError


def check_module(module: Any) -> None:
    """Refuse anything but a linen module, and a module that is bound, derived from a gated class, or traced by JAX."""
    check_type(module)
    if module.scope is not None:
        raise UnsupportedModelError(
            f"module must be unbound. Received: a bound {type(module).__name__}. "
            "Use: module, variables = module.unbind()."
        )
    if hasattr(type(module), "eca_base") and "eca_base" not in vars(type(module)):
        raise UnsupportedModelError(
            f"module must be the network itself. Received: {type(module).__name__}, which was derived from one with "
            "ECA. Change that one, and derive or transform (nn.remat, nn.vmap) its type again."
        )
    if isinstance(jnp.zeros(()), jax.core.Tracer):
        raise _traced("a call inside jax.jit")


def check_type(module: Any) -> None:
    if isinstance(module, nn.Module):
        return
    if isinstance(module, type) and issubclass(module, nn.Module):
        received, remedy = f"the class {module.__name__}", f"Make an instance: {module.__name__}(...)."
    else:
        received, remedy = type(module).__name__, remedy_for(module) or "For an nnx module use eca_multi.flax.nnx."
    raise TypeError(f"module must be a flax.linen.Module. Received: {received}. {remedy}")


def check_concrete(tree: Any) -> None:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
        raise _traced("traced arrays")


def _traced(received: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"ECA must be inserted before JAX traces the network. Received: {received}. "
        "Call plan_eca and insert_eca outside jax.jit, jax.grad and jax.vmap."
    )
