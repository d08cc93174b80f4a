"""bfloat16 under XLA, which on the CPU writes a map to memory in float32 if two operations use the widened map.

`widen` and `scaled` are the first and the last line of the layer, with derivatives of both modes and any order, written
so that each use widens x or dy for itself.
"""

from functools import partial

import jax
from jax import lax
from jax.typing import DTypeLike

Pair = tuple[jax.Array, jax.Array]
Four = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def widen(x: jax.Array, acc: DTypeLike) -> Pair:
    """Return x in `acc` twice, for the product and for the means; JAX adds both gradients before it rounds the sum."""
    wide, again = x.astype(acc), anew(x)
    return wide, wide if again is x else again.astype(acc)


@widen.defjvp
def _widen_jvp(acc: DTypeLike, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Pair, Pair]:
    d_wide = tangents[0].astype(acc)
    return widen(*primals, acc), (d_wide, d_wide)


@jax.custom_jvp
def scaled(x: jax.Array, wide: jax.Array, g: jax.Array, residual: jax.Array | None = None) -> jax.Array:
    """Return wide * g + residual in x's dtype; wide is x in g's, and carries its gradient."""
    y = wide * g
    return (y if residual is None else y + residual.astype(y.dtype)).astype(x.dtype)


@scaled.defjvp
def _scaled_jvp(primals: Four, tangents: Four) -> Pair:
    # In terms, each rounded: then the backward pass widens dy for each use too.
    (x, wide, g, residual), (_, d_wide, d_g, d_residual) = primals, tangents
    along_g = (anew(x, g).astype(wide.dtype) * d_g).astype(x.dtype)
    along = (d_wide * g).astype(x.dtype) + anew(along_g)
    return scaled(x, wide, g, residual), along if d_residual is None else along + d_residual


def anew(a: jax.Array, *after: jax.Array) -> jax.Array:
    """Return `a` so that XLA:CPU does not know it for `a`, to be widened a second time.

    XLA:CPU writes a map in float32 to memory if two operations, one of them a sum, use the widened map. It takes two
    barriers behind the same operands for one, so `after` must differ.
    """
    if not isinstance(a, jax.core.Tracer):
        return a
    anew: jax.Array = lax.platform_dependent(a, *after, cpu=opaque, default=lambda a, *_: a)
    return anew


def opaque(a: jax.Array, *after: jax.Array) -> jax.Array:
    """Return `a` behind a barrier: XLA:CPU knows only that it comes after the others."""
    hidden: list[jax.Array] = lax.optimization_barrier([a, *after])  # type: ignore[no-untyped-call]  # untyped in JAX
    return hidden[0]
