"""bfloat16 of eca_multi.jax for Keras on JAX: its derivatives are of a kind that keras.ops cannot write.

It imports another framework's package, and only where Keras itself runs on that framework. So does `_fused`.
"""

from typing import Any

import keras
from keras import ops

IS_JAX = keras.backend.backend() == "jax"  # for the life of the process
if IS_JAX:
    from eca_multi.jax import _bfloat16

Tensor = Any


def widen(x: Tensor, acc: str) -> tuple[Tensor, Tensor]:
    """Return x in `acc` twice, for the product and for the means."""
    if _is_jax(x):
        return _bfloat16.widen(x, acc)
    wide = ops.cast(x, acc)
    return wide, wide


def scaled(x: Tensor, wide: Tensor, g: Tensor) -> Tensor:
    """Return wide * g in x's dtype; wide is x in g's."""
    return _bfloat16.scaled(x, wide, g) if _is_jax(x) else ops.cast(wide * g, x.dtype)


def _is_jax(x: Tensor) -> bool:
    is_narrow = keras.backend.standardize_dtype(x.dtype) == "bfloat16"
    return IS_JAX and is_narrow and not isinstance(x, keras.KerasTensor)
