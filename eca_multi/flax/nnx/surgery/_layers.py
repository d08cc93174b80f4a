"""The ECA layer for one site: dtype, device and stacking as the site's own parameters."""

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from eca_multi.flax.nnx.layers import ECA, ECAParam
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.plan import ECAPlan

from ._gated import ReplacingECA, base_class
from ._modules import Shape, variables


def layer_for(module: nnx.Module, entry: ECAEntry, plan: ECAPlan, stack: Shape) -> ECA:
    """Return the ECA for a site. It draws from no stream of the model: a uniform kernel follows from the path."""
    like = next((v for v in variables(module).values() if isinstance(v, nnx.Param)), None)
    floating = like is not None and jnp.issubdtype(like.dtype, jnp.floating)
    options: dict[str, Any] = {
        "gate": plan.gate,
        "init": plan.init,
        "channel_axis": entry.channel_axis,
        "param_dtype": like.dtype if like is not None and floating else jnp.float32,
        "rngs": nnx.Rngs(0),
    }
    cls = ReplacingECA if entry.action == "replace" else ECA
    layer = cls(entry.channels, entry.kernel_size, **options)
    if isinstance(layer, ReplacingECA):
        layer.replaced = base_class(module).__name__
    layer.kernel = ECAParam(_kernel(entry, plan.init, (*stack, entry.kernel_size, 1, 1), layer.kernel.dtype, like))
    return layer


def _kernel(entry: ECAEntry, init: str, shape: Shape, dtype: Any, like: nnx.Variable | None) -> Any:
    value = like.get_value() if like is not None else None
    if isinstance(value, jax.ShapeDtypeStruct):  # the site of an abstract model (nnx.eval_shape)
        return jax.ShapeDtypeStruct(shape, dtype)
    if init == "identity":
        kernel = jnp.zeros(shape, dtype)
    else:
        bound = entry.kernel_size**-0.5
        kernel = jax.random.uniform(jax.random.key(zlib.crc32(entry.path.encode())), shape, dtype, -bound, bound)
    return kernel if value is None else _beside(kernel, value)


def _beside(kernel: jax.Array, value: Any) -> jax.Array:
    """Put the kernel where the site's parameter was put: on its device, or on all of its mesh."""
    sharding = getattr(value, "sharding", None)
    if not getattr(value, "committed", False) or sharding is None:
        return kernel
    if isinstance(sharding, jax.sharding.NamedSharding):
        sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.device_put(kernel, sharding)


def parameters_of(entry: ECAEntry, stack: Shape) -> int:
    return entry.kernel_size * math.prod(stack)
