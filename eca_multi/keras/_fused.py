"""The backward pass of eca_multi.torch for Keras on torch: an autograd.Function, which keras.ops cannot write.

It imports another framework's package, and only where Keras itself runs on that framework. So does `_compilers`.
"""

from typing import Any

import keras

IS_TORCH = keras.backend.backend() == "torch"  # for the life of the process

Tensor = Any


def is_faster(x: Tensor, weight: Tensor, gate: Any, axis: int) -> bool:
    """Where `fused_eca` is taken. False on other backends, of symbolic tensors and in compiled or exported code."""
    if not (IS_TORCH and isinstance(gate, str)):
        return False
    from eca_multi.torch import _fused  # here: it takes longer than Keras's own layers

    if not _fused.is_eager(x, weight):
        return False
    # Without a gradient torch's own operations are as quick, yet each of Keras's costs more than theirs.
    is_large = x.is_cpu and x.numel() >= _fused.SMALL and x.is_contiguous()
    return is_large or _fused.is_faster(x, _transposed(weight), gate, axis)


def fused_eca(x: Tensor, weight: Tensor, padding: str, gate: str, axis: int) -> tuple[Tensor, Tensor]:
    """Return y like x, and the gates (N, C) in float32."""
    from eca_multi.torch import _fused

    return _fused.fused_eca(x, _transposed(weight), padding, gate, axis)


def _transposed(weight: Tensor) -> Tensor:
    """A kernel (k,), (k, 1, 1) or (k, 1, C) as torch's code has it, (1, k) or (C, k)."""
    return weight.reshape(len(weight), -1).T
