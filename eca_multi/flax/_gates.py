"""What the recording of gates in linen and in nnx share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_multi._canonical import pack
from eca_multi.gates.layer import options_of
from eca_multi.jax.functional import as_floating, eca


def gate_of(layer: Any, kernel: Any, x: Any, mask: Any = None) -> jax.Array:
    """Return the gate (N, C, *kept) that a layer computes for x; no gradient passes through."""
    x, kernel = jax.lax.stop_gradient((as_floating("x", x, layer.dtype), kernel))
    names = {"axis_name": layer.axis_name, "channel_axis_name": layer.channel_axis_name}
    _, g = eca(x, kernel, mask=mask, return_gate=True, **names, **options_of(layer))
    return g


def canonical(kernel: Any) -> np.ndarray:
    """Return a kernel in canonical form; one of layers that are stacked (vmap, scan) as NaN, for there are several."""
    array = np.asarray(kernel, np.float64)
    if array.ndim > 3:
        return np.full(array.shape[-3], np.nan)
    return np.asarray(pack("linen", array)["weight"], np.float64)


def exchanged(constant: float, x: Any, residual: Any = None) -> jax.Array:
    """Return x * constant, plus the residual where there is one: what stands for an ECA that is taken out."""
    x = jnp.asarray(x)
    y = x if constant == 1.0 else (x * constant).astype(x.dtype)
    return y if residual is None else y + residual


def floating(outputs: Any) -> list[np.ndarray]:
    """Return the floating-point arrays of a network's outputs in float64."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(outputs) if hasattr(leaf, "dtype")]
    return [np.asarray(leaf, np.float64) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
