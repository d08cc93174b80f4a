"""bfloat16 under XLA, which on the CPU writes a map to memory that is widened for two uses.

`widen` and `scaled` are the layer's first and last line, with derivatives of both modes and any order, so written that
each use widens x or dy for itself.
"""

from functools import partial

import jax
from jax import lax
from jax.typing import DTypeLike

Pair = tuple[jax.Array, jax.Array]
Triple = tuple[jax.Array, jax.Array, jax.Array]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def widen(x: jax.Array, acc: DTypeLike) -> Pair:
    """Return x in `acc` twice, for the product and for the means; their gradients are added before they are rounded."""
    wide, again = x.astype(acc), anew(x)
    return wide, wide if again is x else again.astype(acc)


@widen.defjvp
def _widen_jvp(acc: DTypeLike, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Pair, Pair]:
    d_wide = tangents[0].astype(acc)
    return widen(*primals, acc), (d_wide, d_wide)


@jax.custom_jvp
def scaled(x: jax.Array, wide: jax.Array, g: jax.Array) -> jax.Array:
    """Return wide * g in x's dtype; wide is x in g's, and carries its gradient."""
    return (wide * g).astype(x.dtype)


@scaled.defjvp
def _scaled_jvp(primals: Triple, tangents: Triple) -> Pair:
    # Two terms, each rounded, so that backward dy too is widened for each of its uses.
    (x, wide, g), (_, d_wide, d_g) = primals, tangents
    along_g = (anew(x, g).astype(wide.dtype) * d_g).astype(x.dtype)
    return scaled(x, wide, g), (d_wide * g).astype(x.dtype) + anew(along_g)


def anew(a: jax.Array, *after: jax.Array) -> jax.Array:
    """Return `a`, to be widened once more; XLA:CPU is not to see that it is `a`.

    What is widened for two uses, one of them a sum, it writes to memory in float32; for one use it does not. Two that
    come after the same are one to it.
    """
    if not isinstance(a, jax.core.Tracer):
        return a
    anew: jax.Array = lax.platform_dependent(a, *after, cpu=opaque, default=lambda a, *_: a)
    return anew


def opaque(a: jax.Array, *after: jax.Array) -> jax.Array:
    """Return `a`, of which XLA:CPU is to know no more than that it comes after the others."""
    hidden: list[jax.Array] = lax.optimization_barrier([a, *after])  # type: ignore[no-untyped-call]  # untyped in JAX
    return hidden[0]
