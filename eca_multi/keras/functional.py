"""The ECA function for Keras 3: the tensor lines of the layer, in keras.ops."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from eca_multi._canonical import native_kernel
from eca_multi._errors import (
    check_channel_axis,
    check_circular,
    check_floating,
    check_gate,
    check_gate_shape,
    check_kernel,
    check_mask,
    check_padding,
)
from eca_multi._pooling import Pooling, check_pooling, check_residual_dtype, check_residual_shape

from ._backends import COPIES, correlate, fused_eca, is_faster, masked_product, mean, running, scaled, widen

# A tensor of whichever backend Keras runs on; Keras itself has no type for it.
Tensor = Any
Gate = str | Callable[[Tensor], Tensor]

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": ops.sigmoid,
    "hard_sigmoid": lambda logits: ops.relu6(logits + 3) / 6,
    "2sigmoid": lambda logits: 2 * ops.sigmoid(logits),
}


def eca(
    x: Tensor,
    weight: Tensor,
    *,
    padding: str = "zeros",
    gate: Gate = "sigmoid",
    channel_axis: int = -1,
    pool_axes: int | Sequence[int] | None = None,
    causal_axis: int | None = None,
    mask: Tensor | None = None,
    residual: Tensor | None = None,
    return_gate: bool = False,
) -> Any:
    """Gate each channel of `x` by a 1-D convolution over the channels' means.

    Args:
        x: Feature map (N, *S, C) or with the channels elsewhere; rank >= 3, a floating-point dtype.
        weight: Kernel of odd size k, shape (k, 1, 1) or (k,); for ECA-NS one per channel, shape (k, 1, C).
        padding: "zeros" or "circular", over the channels.
        gate: "sigmoid", "hard_sigmoid", "2sigmoid" (2 * sigmoid, exactly 1 at 0), or a function of the logits.
        channel_axis: Axis of the channels, not 0.
        pool_axes: Axes of x to average over; None is all but batch and channels. Each position of an axis that is
            left out has gates of its own: the frames of a video, say.
        causal_axis: The pooled axis along which a position sees itself and what lies before it, never what comes
            after; gates vary along it.
        mask: Boolean, broadcastable to x's shape without its channel axis; True where a position counts for the
            mean. Where no position counts (so far), the mean is 0.
        residual: Of x's shape and dtype, added to the product before the one rounding to x's dtype.
        return_gate: Return also the gate.

    Returns:
        y of x's shape and dtype; with `return_gate`, (y, gate) with the gate of shape (N, C), followed by the axes
        along which it varies, in float32, or float64 where x or weight is. Means, gate, product and sum are computed
        in that dtype.

    Raises:
        TypeError, ValueError: As listed in docs/errors.md.

    Example:
        >>> from keras import ops
        >>> from eca_multi.keras import eca
        >>> float(ops.mean(eca(ops.ones((2, 5, 7, 8)), ops.zeros((3, 1, 1)))))
        0.5

    Source: Wang et al., ECA-Net, CVPR 2020.
    """
    x, weight = as_floating("x", x), as_floating("weight", weight)
    axis = check_channel_axis(channel_axis, x.shape)
    pooling = check_pooling(pool_axes, causal_axis, axis, x.shape)
    residual = check_rest(x, weight, axis, padding, gate, residual)
    if mask is None and not pooling.kept and is_faster(x, weight, gate, axis, residual):
        y, g = fused_eca(x, weight, padding, str(gate), axis, residual)
        return (y, g) if return_gate else y
    acc = accumulator(x, weight)

    # TensorFlow sums float16 in float16 and JAX the gradient of a bfloat16 product in bfloat16: widen x first.
    wide, again = widen(x, acc)
    valid = None
    if mask is None:
        sums, count = sums_of(again, axis, pooling), counts_of(x, axis, pooling, acc)
    else:
        valid = valid_positions(mask, axis, x)
        sums = sums_of(ops.where(valid, again, ops.zeros((), acc)), axis, pooling)
        count = at_least_one(sums_of(ops.cast(valid, acc), axis, pooling))
    y, g = gated(x, wide, mean(sums, count, pooling), weight, axis, pooling, valid, residual, padding, gate)
    return (y, g) if return_gate else y


def gated(
    x: Tensor,
    wide: Tensor,
    pooled: Tensor,
    weight: Tensor,
    axis: int,
    pooling: Pooling,
    valid: Tensor | None,
    residual: Tensor | None,
    padding: str,
    gate: Gate,
) -> tuple[Tensor, Tensor]:
    """Return y and the gate from the means (N, C, *kept); `wide` is x in their dtype."""
    w = ops.reshape(ops.cast(weight, wide.dtype), (weight.shape[0], -1) + (1,) * len(pooling.kept))
    # A running sum stands between the taps and x, so that no compiler fuses the two.
    logits = _convolve(pooled, w, padding, 1 if pooling.causal else COPIES)
    g = GATES[gate](logits) if isinstance(gate, str) else gate(logits)
    check_gate_shape(g.shape, logits.shape)
    scale = ops.moveaxis(g, 1, pooling.left(axis)) if pooling.kept else g
    # Not expand_dims: its gradient on an empty batch ends a process in which TensorFlow compiles a graph.
    scale = scale[tuple(None if i in pooling.whole else slice(None) for i in range(len(x.shape)))]
    if valid is None:
        return scaled(x, wide, scale, residual), g
    return masked_product(x, wide, scale, valid, residual), g


def sums_of(a: Tensor, axis: int, pooling: Pooling) -> Tensor:
    """Sum over the pooled axes, up to each position of the causal one: (N, C, *kept)."""
    sums = ops.sum(a, pooling.whole) if pooling.whole else a  # ops.mean takes float64 through float32 in torch
    if pooling.kept:
        sums = ops.moveaxis(sums, pooling.left(axis), 1)
    return sums if pooling.running is None else running(sums, pooling.running)


def counts_of(x: Tensor, axis: int, pooling: Pooling, acc: str) -> Tensor | int:
    """Return how many positions there are in each mean: one number, or one for each position of the causal axis."""
    recorded = pooling.causal is not None and isinstance(x, keras.KerasTensor)  # a model's config would hold them all
    if recorded or None in [x.shape[i] for i in pooling.axes]:
        return sums_of(ops.cast(_everywhere(axis, x), acc), axis, pooling)
    count = math.prod([x.shape[i] for i in pooling.whole])
    if pooling.running is None:
        return count
    after = len(pooling.kept) + 1 - pooling.running
    steps = ops.arange(1, x.shape[pooling.causal] + 1, dtype=acc)
    return ops.reshape(count * steps, (1,) * pooling.running + (-1,) + (1,) * after)


def at_least_one(count: Tensor) -> Tensor:
    return ops.where(count > 0, count, ops.ones_like(count))  # ops.maximum makes float32 of float64 in torch


def _convolve(pooled: Tensor, w: Tensor, padding: str, several: int) -> Tensor:
    """Correlate the means (N, C, *kept) with one kernel (k, 1, ...), or with one per channel (k, C, ...)."""
    # Shifted copies instead of ops.conv, whose kernel gradient is wrong for sharded channels on the JAX backend.
    channels, k = pooled.shape[1], w.shape[0]
    half = k // 2
    if padding == "zeros":
        padded = ops.pad(pooled, ((0, 0), (half, half)) + ((0, 0),) * (len(pooled.shape) - 2))
    else:
        padded = ops.concatenate([pooled[:, channels - half :], pooled, pooled[:, :half]], 1)
    return correlate(padded, w, several)


def check_rest(
    x: Tensor, weight: Tensor, axis: int, padding: str, gate: Gate, residual: Tensor | None
) -> Tensor | None:
    """Check what x, whose channels are at `axis`, goes together with; return the residual as a tensor."""
    check_padding(padding)
    check_gate(gate)
    kernels, taps = native_kernel("keras", weight.shape)
    k = check_kernel(kernels, taps, x.shape[axis], weight.shape)
    check_circular(padding, k, x.shape[axis])
    if residual is None:
        return None
    residual = as_floating("residual", residual)
    check_residual_shape(residual.shape, x.shape)
    check_residual_dtype(_dtype_name(residual), _dtype_name(x))
    return residual


def accumulator(x: Tensor, weight: Tensor) -> str:
    return "float64" if "float64" in (_dtype_name(x), _dtype_name(weight)) else "float32"


def valid_positions(mask: Tensor, axis: int, x: Tensor) -> Tensor:
    """Return the mask of x as x's shape with one channel."""
    check_mask(is_bool(mask), mask, axis, x.shape)
    mask = ops.convert_to_tensor(mask)
    missing = tuple(range(len(x.shape) - 1 - len(mask.shape)))
    return ops.logical_and(ops.expand_dims(ops.expand_dims(mask, missing), axis), _everywhere(axis, x))


def _everywhere(axis: int, x: Tensor) -> Tensor:
    return ops.ones_like(ops.take(x, [0], axis), dtype="bool")  # x's shape with one channel, known or not


def as_floating(name: str, value: Tensor) -> Tensor:
    """Return a floating-point tensor of the backend's; anything else raises TypeError."""
    check_floating(name, is_floating(value), value)
    return ops.convert_to_tensor(value)


def is_floating(x: Tensor) -> bool:
    return _dtype_name(x) in ("float16", "bfloat16", "float32", "float64")


def is_bool(x: Tensor) -> bool:
    return _dtype_name(x) == "bool"


def _dtype_name(x: Tensor) -> str:
    """The name of any backend's or NumPy's dtype. keras.backend.standardize_dtype raises for strings: report those."""
    dtype = getattr(x, "dtype", None)
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")
