"""What the backends' compilers are to see of ECA, so that they compute nothing once more at each position of the map.

On JAX these are the lines of eca_multi.jax, which keras.ops cannot write. It imports another framework's package, and
only where Keras itself runs on that framework. So does `_fused`.
"""

from typing import Any

import keras
from keras import ops

BACKEND = keras.backend.backend()  # for the life of the process
if BACKEND == "jax":
    from eca_multi.jax import _bfloat16

Tensor = Any

# Of the means, for the taps to take in turn: their gradient then ends in a sum of both, which XLA and inductor do once.
# Else they fuse the shifts of all taps into the loop over dx, and compute them at each position; on JAX see `mean`.
COPIES = 1 if BACKEND == "jax" else 2


def widen(x: Tensor, acc: str) -> tuple[Tensor, Tensor]:
    """Return x in `acc` twice, for the product and for the means."""
    if _is_narrow_in_jax(x):
        return _bfloat16.widen(x, acc)
    wide = ops.cast(x, acc)
    return wide, wide


def scaled(x: Tensor, wide: Tensor, g: Tensor) -> Tensor:
    """Return wide * g in x's dtype; wide is x in g's."""
    return _bfloat16.scaled(x, wide, g) if _is_narrow_in_jax(x) else ops.cast(wide * g, x.dtype)


def mean(sums: Tensor, count: Tensor | int) -> Tensor:
    """Return sums / count."""
    if BACKEND == "jax" and not isinstance(sums, keras.KerasTensor):
        # XLA:CPU makes a quotient once, but a product with 1/count, and so the taps' gradient, at each position of dx.
        count = _bfloat16.opaque(ops.broadcast_to(ops.cast(count, sums.dtype), ops.shape(sums)))
    return sums / count


def _is_narrow_in_jax(x: Tensor) -> bool:
    is_narrow = keras.backend.standardize_dtype(x.dtype) == "bfloat16"
    return BACKEND == "jax" and is_narrow and not isinstance(x, keras.KerasTensor)
