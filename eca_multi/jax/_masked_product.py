"""The product under a mask. NaN or infinity in the padding must not reach the gradient of the gates.

This module defines the derivative, for both modes and any order: for a choice between two products XLA:CPU would move
twice as many maps.
"""

import jax
import jax.numpy as jnp

from ._bfloat16 import anew

Five = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None]


@jax.custom_jvp
def masked_product(
    x: jax.Array, wide: jax.Array, g: jax.Array, valid: jax.Array, residual: jax.Array | None = None
) -> jax.Array:
    """Return wide * g + residual in x's dtype; wide is x in g's, and carries its gradient.

    A position that is neither valid nor finite counts as 0 for the gradient of g: the loss does not look there, and a
    product would give 0 * NaN.
    """
    y = wide * g
    return (y if residual is None else y + residual.astype(y.dtype)).astype(x.dtype)


@masked_product.defjvp
def _masked_product_jvp(primals: Five, tangents: Five) -> tuple[jax.Array, jax.Array]:
    # In terms, each rounded, and from x anew: see `_bfloat16.scaled`.
    (x, wide, g, valid, _), (_, d_wide, d_g, _, d_residual) = primals, tangents
    again = anew(x, g)
    kept = jnp.where(valid | jnp.isfinite(again), again, 0).astype(wide.dtype)
    along_g = (kept * d_g).astype(x.dtype)
    along = (d_wide * g).astype(x.dtype) + anew(along_g)
    return masked_product(*primals), along if d_residual is None else along + d_residual
