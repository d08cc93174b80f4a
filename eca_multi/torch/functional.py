"""The ECA function for PyTorch: its checks, and the choice between the tensor lines and the fast passes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, overload

import torch

from eca_multi._canonical import native_kernel
from eca_multi._errors import (
    check_channel_axis,
    check_channels,
    check_circular,
    check_floating,
    check_gate,
    check_kernel,
    check_mask,
    check_padding,
)
from eca_multi._pooling import (
    check_pooling,
    check_pooling_types,
    check_residual_device,
    check_residual_dtype,
    check_residual_shape,
)

from ._eager import is_eager
from ._fast.choose import is_faster
from ._fast.fused import fused_eca
from ._fast.varying import keeps_less, varying_eca
from ._tensor_lines import Gate, Shapes, attend


@overload
def eca(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    padding: str = ...,
    gate: Gate = ...,
    channel_axis: int = ...,
    pool_axes: int | Sequence[int] | None = ...,
    causal_axis: int | None = ...,
    mask: torch.Tensor | None = ...,
    residual: torch.Tensor | None = ...,
    return_gate: Literal[False] = ...,
) -> torch.Tensor: ...
@overload
def eca(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    padding: str = ...,
    gate: Gate = ...,
    channel_axis: int = ...,
    pool_axes: int | Sequence[int] | None = ...,
    causal_axis: int | None = ...,
    mask: torch.Tensor | None = ...,
    residual: torch.Tensor | None = ...,
    return_gate: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...
def eca(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    padding: str = "zeros",
    gate: Gate = "sigmoid",
    channel_axis: int = 1,
    pool_axes: int | Sequence[int] | None = None,
    causal_axis: int | None = None,
    mask: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    return_gate: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Gate each channel of `x` by a 1-D convolution over the channels' means, and add `residual`.

    Args:
        x: Feature map (N, C, *S) or with the channels elsewhere; rank >= 3, a floating-point dtype.
        weight: Kernel of odd size k, shape (1, 1, k) or (k,); for ECA-NS one per channel, shape (C, 1, k). Where k = C,
            a kernel in Keras's or Flax's layout (k, 1, 1) reads as C kernels of size 1: convert by `to_canonical`.
        padding: "zeros" or "circular", over the channels.
        gate: "sigmoid", "hard_sigmoid", "2sigmoid" (2 * sigmoid, exactly 1 at 0), or a function of the logits.
        channel_axis: Axis of the channels, not 0.
        pool_axes: Axes of x to average over, an integer or several; None is all but batch and channels. An axis that
            is left out is kept: each of its positions has gates of its own.
        causal_axis: The pooled axis along which a position's mean takes in what lies before it and itself, never what
            comes after. The gates vary along it: it is kept too.
        mask: Boolean, broadcastable to x's shape without its channel axis; True where a position counts for the
            mean. The mean over no valid position is 0.
        residual: Of x's shape, dtype and device. It is added to the product before y is rounded to x's dtype.
        return_gate: Return also the gate.

    Returns:
        y of x's shape and dtype; with `return_gate`, (y, gate) with the gate of shape (N, C, *kept), the kept axes in
        x's order, in float32, or float64 where x or weight is. Means, gate and product are computed in that dtype.

    Raises:
        TypeError, ValueError: As listed in docs/errors.md.

    Example:
        >>> import torch
        >>> from eca_multi.torch import eca
        >>> eca(torch.ones(2, 8, 5, 7), torch.zeros(1, 1, 3)).mean()
        tensor(0.5000)

    Source: Wang et al., ECA-Net, CVPR 2020.
    """
    y, g = checked_attend(x, weight, padding, gate, channel_axis, pool_axes, causal_axis, mask, residual)
    if not return_gate:
        return y
    is_plain = pool_axes is None and causal_axis is None  # conv1d gives such gates another shape
    return y, g.reshape(x.shape[0], x.shape[channel_axis]) if is_plain else g


def checked_attend(
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: str,
    gate: Gate,
    channel_axis: int,
    pool_axes: int | Sequence[int] | None,
    causal_axis: int | None,
    mask: torch.Tensor | None,
    residual: torch.Tensor | None,
    channels: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check every argument, and return y and the gates. `channels` is the layer's number, if a layer calls."""
    check_padding(padding)
    check_gate(gate)
    eager = is_eager(x, weight)
    if eager and type(channel_axis) is int and pool_axes is None and causal_axis is None:
        shapes = _read_again(x.shape, weight.shape, channel_axis, padding, channels)
    elif eager and type(channel_axis) is int:
        # Integers of other types, which the checks refuse or convert, equal an int and would meet its answer.
        pools, causal = check_pooling_types(pool_axes, causal_axis)
        shapes = _read_again(x.shape, weight.shape, channel_axis, padding, channels, pools, causal)
    else:
        require_floating("x", x)
        require_floating("weight", weight)
        shapes = read_shapes(x.shape, weight.shape, channel_axis, padding, channels, pool_axes, causal_axis)
    axis, k = shapes.axis, shapes.kernel_size
    if residual is not None:
        require_residual(residual, x)
        eager = eager and is_eager(residual, weight)
    valid = None
    if mask is not None:
        require_mask(mask, axis, x)
        valid = mask.expand(*x.shape[:axis], *x.shape[axis + 1 :]).unsqueeze(axis)
    elif eager and not shapes.is_varying and is_faster(x, weight, gate, axis, residual):
        return fused_eca(x, weight.reshape(-1, k), padding, str(gate), axis, residual)
    elif eager and shapes.is_varying and keeps_less(x, weight, gate, residual):
        return varying_eca(x, weight.reshape(-1, k), padding, str(gate), shapes, residual)
    y, g, _ = attend(x, weight, padding, gate, shapes, valid, eager, residual)
    return y, g


def checked_eca(
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: str,
    gate: Gate,
    channel_axis: int,
    pool_axes: Sequence[int] | None,
    causal_axis: int | None,
    mask: torch.Tensor | None,
    residual: torch.Tensor | None,
    channels: int,
) -> torch.Tensor:
    """The layer's call, one step in a graph of torch.fx."""
    options = (padding, gate, channel_axis, pool_axes, causal_axis, mask, residual)
    y, _ = checked_attend(x, weight, *options, channels)
    return y


def read_shapes(
    x: torch.Size,
    weight: torch.Size,
    channel_axis: int,
    padding: str,
    channels: int | None = None,
    pool_axes: int | Sequence[int] | None = None,
    causal_axis: int | None = None,
) -> Shapes:
    """Check the shapes of a call, against the layer's number of channels too if a layer calls."""
    axis = check_channel_axis(channel_axis, x)
    if _is_known(x[axis]) and channels is not None:  # reading `channels` adds a Dynamo guard, so test the extent first
        check_channels(channels, axis, x)
    pooling = check_pooling(pool_axes, causal_axis, axis, x)
    kernels, taps = native_kernel("torch", weight)
    k = check_kernel(kernels, taps, x[axis], weight)
    check_circular(padding, k, x[axis])
    is_single = x[0] == kernels == 1 and len(weight) == 3 and padding == "zeros"
    return Shapes.of(x, axis, k, is_single, pooling)


# On small maps the checks cost as much as a pass over the map, and a network meets few shapes: keep the answers.
_read_again = lru_cache(maxsize=1024)(read_shapes)


def _is_known(extent: int | torch.SymInt) -> bool:
    """Whether a channel count may be compared: Dynamo compiles a dynamic one again for each number beside it."""
    if not torch.compiler.is_compiling():
        return True
    from torch.fx.experimental.symbolic_shapes import has_static_value  # imports sympy: only where needed

    return has_static_value(extent)


def require_floating(name: str, x: torch.Tensor) -> None:
    """Raise TypeError for anything but a floating-point tensor; the error names a NumPy array as one."""
    is_tensor = isinstance(x, torch.Tensor)
    check_floating(name, is_tensor and x.dtype.is_floating_point, x if is_tensor else type(x))


def require_mask(mask: torch.Tensor, axis: int, x: torch.Tensor) -> None:
    """Raise for anything but a boolean tensor that fits x."""
    is_tensor = isinstance(mask, torch.Tensor)
    check_mask(is_tensor and mask.dtype == torch.bool, mask if is_tensor else type(mask), axis, x.shape)


def require_residual(residual: torch.Tensor, x: torch.Tensor) -> None:
    """Raise for anything but a tensor of x's shape, dtype and device."""
    require_floating("residual", residual)
    if residual.shape != x.shape:
        check_residual_shape(residual.shape, x.shape)
    if residual.dtype != x.dtype:
        check_residual_dtype(str(residual.dtype).removeprefix("torch."), str(x.dtype).removeprefix("torch."))
    if residual.device != x.device:
        check_residual_device(residual.device, x.device)
