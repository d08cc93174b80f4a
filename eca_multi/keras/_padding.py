"""The product under a mask, where the padding may be NaN or infinite and must not reach the gradient of the gates.

On torch and JAX it is that of eca_multi.torch and eca_multi.jax, which keras.ops cannot write: it imports other
frameworks' packages, and only where Keras itself runs on them. So do `_fused` and `_compilers`.
"""

from typing import Any

import keras
from keras import ops

BACKEND = keras.backend.backend()  # for the life of the process
if BACKEND == "jax":
    from eca_multi.jax import _padding as jax_padding

Tensor = Any


def masked_product(x: Tensor, wide: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
    """Return wide * scale in x's dtype; wide is x in scale's, and carries its gradient.

    What is neither valid nor finite counts as 0 for the gradient of scale: where the loss does not look at it, a
    product would give 0 * NaN.
    """
    if isinstance(x, keras.KerasTensor):
        return ops.cast(_written_out(wide, scale, valid), x.dtype)
    if BACKEND == "torch":
        from eca_multi.torch import _padding as torch_padding  # here: it takes longer than Keras's own layers

        return torch_padding.masked_product(x, scale, valid).to(x.dtype)
    if BACKEND == "jax":
        return jax_padding.masked_product(x, wide, scale, valid)
    return ops.cast(_of_one_product(valid)(wide, scale), x.dtype)


def _written_out(wide: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
    """In operations that a model of the functional API records."""
    counts = ops.logical_or(valid, ops.isfinite(wide))
    return ops.where(counts, _counted(wide, valid) * scale, wide * ops.stop_gradient(scale))


def _of_one_product(valid: Tensor) -> Any:
    """On TensorFlow, whose graphs fuse nothing: the gradient of the choice above, without the choice."""

    @ops.custom_gradient
    def product(wide: Tensor, scale: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            spread = [i for i in range(1, len(scale.shape)) if scale.shape[i] == 1]
            return dy * scale, ops.sum(dy * _counted(wide, valid), spread, keepdims=True)

        return wide * scale, gradient

    return product


def _counted(wide: Tensor, valid: Tensor) -> Tensor:
    return ops.where(ops.logical_or(valid, ops.isfinite(wide)), wide, ops.zeros_like(wide))
