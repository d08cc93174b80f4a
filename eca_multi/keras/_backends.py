"""What keras.ops cannot write: on torch and JAX the lines of eca_multi.torch and eca_multi.jax.

No other module here imports another framework's package, and this one does only where Keras runs on that framework.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from eca_multi._pooling import Pooling

BACKEND = keras.backend.backend()  # for the life of the process
if BACKEND == "jax":
    from eca_multi.jax import _bfloat16, _masked_product

Tensor = Any

# Of the means, for the taps to take in turn: their gradient then ends in a sum of both, which XLA and inductor do once.
# With one copy they fuse the shifts of all taps into the loop over dx, and compute them at each position. On JAX `mean`
# sees to that.
COPIES = 1 if BACKEND == "jax" else 2


# --- the fused backward pass on torch ----------------------------------------------------------------------------


def is_faster(x: Tensor, weight: Tensor, gate: Any, axis: int, residual: Tensor | None = None) -> bool:
    """Where `fused_eca` is taken. False on other backends, of symbolic tensors and in compiled or exported code."""
    if BACKEND != "torch" or not isinstance(gate, str):
        return False
    from eca_multi.torch._eager import is_eager  # here: the import takes longer than that of Keras's own layers
    from eca_multi.torch._fast import choose

    if not is_eager(x, weight) or not (residual is None or is_eager(residual, weight)):
        return False
    # Without a gradient torch's own operations are as quick, yet each of Keras's costs more than torch's.
    alike = residual is None or residual.is_contiguous()
    is_large = x.is_cpu and x.numel() >= choose.SMALL and x.is_contiguous() and alike
    return is_large or choose.is_faster(x, _transposed(weight), gate, axis, residual)


def fused_eca(
    x: Tensor, weight: Tensor, padding: str, gate: str, axis: int, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return y like x, and the gates (N, C) in float32."""
    from eca_multi.torch._fast import fused

    return fused.fused_eca(x, _transposed(weight), padding, gate, axis, residual)


def _transposed(weight: Tensor) -> Tensor:
    """A kernel (k,), (k, 1, 1) or (k, 1, C) as torch's code has it, (1, k) or (C, k)."""
    return weight.reshape(len(weight), -1).T


# --- the taps ------------------------------------------------------------------------------------------------------


def correlate(padded: Tensor, w: Tensor, several: int) -> Tensor:
    """Correlate padded means (N, C + k - 1, *kept) with one kernel (k, 1, ...), or with one per channel (k, C, ...).

    A graph of TensorFlow's that XLA does not compile fuses nothing: of the gradient that it derives, each tap pads a
    tensor of its own. Written out, the taps are shifts of one.
    """
    if BACKEND == "tensorflow" and not isinstance(padded, keras.KerasTensor):
        return _of_shifts(padded, w)
    copies = [padded] * several  # in a model of the functional API, whose batch has no number yet
    if several > 1 and not isinstance(padded, keras.KerasTensor):
        copies = ops.broadcast_to(padded, (several, *ops.shape(padded)))
    return _taps(copies, w)


def _taps(copies: Any, w: Tensor) -> Tensor:
    k = w.shape[0]
    channels = copies[0].shape[1] - k + 1
    logits = copies[0][:, :channels] * w[0]
    for j in range(1, k):
        logits = logits + copies[j % len(copies)][:, j : j + channels] * w[j]
    return logits


def _of_shifts(padded: Tensor, w: Tensor) -> Tensor:
    @ops.custom_gradient
    def product(padded: Tensor, w: Tensor) -> tuple[Tensor, Any]:
        def gradient(d: Tensor) -> tuple[Tensor, Tensor]:
            k, channels, kept = w.shape[0], d.shape[1], [(0, 0)] * (len(d.shape) - 2)
            others = [axis for axis in range(len(d.shape)) if axis != 1 or w.shape[1] == 1]
            dw = [ops.sum(padded[:, j : j + channels] * d, others) for j in range(k)]
            back = ops.pad(d, [(0, 0), (k - 1, k - 1), *kept])
            taps = w if w.shape[1] == 1 else ops.pad(w, [(0, 0), (k - 1, k - 1), *kept])
            at = [taps if w.shape[1] == 1 else taps[:, k - 1 - j : 2 * (k - 1) - j + channels] for j in range(k)]
            length = channels + k - 1
            dx = [back[:, k - 1 - j : k - 1 - j + length] * at[j][j] for j in range(k)]
            return sum(dx[1:], dx[0]), ops.reshape(ops.stack(dw), w.shape)

        return _taps([padded], w), gradient

    return product(padded, w)


# --- the first and the last line of the layer --------------------------------------------------------------------


def widen(x: Tensor, acc: str) -> tuple[Tensor, Tensor]:
    """Return x in `acc` twice, for the product and for the means."""
    if _is_narrow_in_jax(x):
        return _bfloat16.widen(x, acc)
    wide = ops.cast(x, acc)
    return wide, wide


def running(a: Tensor, axis: int) -> Tensor:
    """Sum up to each position of an axis, with an error that does not grow with the number of positions."""
    if BACKEND == "jax":  # XLA adds pairwise; it has no float64 unless the user sets it
        return ops.cumsum(a, axis)
    if BACKEND == "torch" and not isinstance(a, keras.KerasTensor):  # there ops.cumsum takes float64 through float32
        from eca_multi.torch import _tensor_lines as in_torch

        return in_torch.running(a, axis)
    return ops.cast(ops.cumsum(ops.cast(a, "float64"), axis), a.dtype)


def mean(sums: Tensor, count: Tensor | int, pooling: Pooling) -> Tensor:
    if BACKEND == "jax" and pooling.causal is None and not isinstance(sums, keras.KerasTensor):
        # XLA:CPU makes a quotient once, but a product with 1/count, and so the taps' gradient, at each position of dx.
        count = _bfloat16.opaque(ops.broadcast_to(ops.cast(count, sums.dtype), ops.shape(sums)))
    return sums / count


def scaled(x: Tensor, wide: Tensor, g: Tensor, residual: Tensor | None) -> Tensor:
    """Return wide * g + residual in x's dtype; wide is x in g's."""
    if _is_narrow_in_jax(x):
        return _bfloat16.scaled(x, wide, g, residual)
    return _sum(wide * g, residual, x.dtype)


def _sum(product: Tensor, residual: Tensor | None, dtype: Any) -> Tensor:
    """Add a residual, and round once."""
    if residual is not None:
        product = product + ops.cast(residual, product.dtype)
    return ops.cast(product, dtype)


def _is_narrow_in_jax(x: Tensor) -> bool:
    is_narrow = keras.backend.standardize_dtype(x.dtype) == "bfloat16"
    return BACKEND == "jax" and is_narrow and not isinstance(x, keras.KerasTensor)


# --- the product under a mask ------------------------------------------------------------------------------------


def masked_product(x: Tensor, wide: Tensor, g: Tensor, valid: Tensor, residual: Tensor | None) -> Tensor:
    """Return wide * g + residual in x's dtype; wide is x in g's, and carries its gradient.

    A position that is neither valid nor finite counts as 0 for the gradient of g: the loss does not look there, and a
    product would give 0 * NaN.
    """
    if isinstance(x, keras.KerasTensor):
        return _sum(_written_out(wide, g, valid), residual, x.dtype)
    if BACKEND == "torch":
        from eca_multi.torch import _masked_product as in_torch

        return _sum(in_torch.masked_product(x, g, valid), residual, x.dtype)
    if BACKEND == "jax":
        return _masked_product.masked_product(x, wide, g, valid, residual)
    return _sum(_of_one_product(valid)(wide, g), residual, x.dtype)


def _written_out(wide: Tensor, g: Tensor, valid: Tensor) -> Tensor:
    """In operations that a model of the functional API records."""
    counts = ops.logical_or(valid, ops.isfinite(wide))
    return ops.where(counts, _counted(wide, valid) * g, wide * ops.stop_gradient(g))


def _of_one_product(valid: Tensor) -> Any:
    """On TensorFlow, whose graphs fuse nothing: the gradient of the choice above, without the choice."""

    @ops.custom_gradient
    def product(wide: Tensor, g: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            spread = [i for i in range(1, len(g.shape)) if g.shape[i] == 1]
            return dy * g, ops.sum(dy * _counted(wide, valid), spread, keepdims=True)

        return wide * g, gradient

    return product


def _counted(wide: Tensor, valid: Tensor) -> Tensor:
    return ops.where(ops.logical_or(valid, ops.isfinite(wide)), wide, ops.zeros_like(wide))


# --- values of a compiled call ----------------------------------------------------------------------------------


def is_traced(x: Tensor) -> bool:
    """Whether x is one of JAX's that a transform computes later."""
    if BACKEND != "jax":
        return False
    import jax

    return isinstance(x, jax.core.Tracer)


def to_host(receive: Callable[[Any], None], x: Tensor) -> None:
    """Call `receive` on the host with the values of a traced x, each time that they are computed."""
    import jax

    jax.debug.callback(receive, x)


def wait_for_host() -> None:
    """Wait until all of these calls were made."""
    if BACKEND == "jax":
        import jax

        jax.effects_barrier()
