"""The ECA function for PyTorch: the tensor lines of the layer."""

import math
from functools import lru_cache
from typing import Literal, NamedTuple, overload

import torch
import torch.nn.functional as F

from eca_multi._canonical import native_kernel
from eca_multi._errors import (
    check_channel_axis,
    check_channels,
    check_circular,
    check_floating,
    check_gate,
    check_gate_shape,
    check_kernel,
    check_mask,
    check_padding,
    spatial_axes,
)

from ._fused import fused_eca, is_eager, is_faster
from ._gate import GATES, Gate, conv1d_is_exact, convolve, gathered
from ._padding import masked_product


@overload
def eca(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    padding: str = ...,
    gate: Gate = ...,
    channel_axis: int = ...,
    mask: torch.Tensor | None = ...,
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
    mask: torch.Tensor | None = ...,
    return_gate: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...
def eca(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    padding: str = "zeros",
    gate: Gate = "sigmoid",
    channel_axis: int = 1,
    mask: torch.Tensor | None = None,
    return_gate: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Gate each channel of `x` by a 1-D convolution over the channels' means.

    Args:
        x: Feature map (N, C, *S) or with the channels elsewhere; rank >= 3, a floating-point dtype.
        weight: Kernel of odd size k, shape (1, 1, k) or (k,); for ECA-NS one per channel, shape (C, 1, k). Where k = C,
            a kernel in Keras's or Flax's layout (k, 1, 1) reads as C kernels of size 1: convert by `to_canonical`.
        padding: "zeros" or "circular", over the channels.
        gate: "sigmoid", "hard_sigmoid", "2sigmoid" (2 * sigmoid, exactly 1 at 0), or a function of the logits.
        channel_axis: Axis of the channels, not 0.
        mask: Boolean, broadcastable to x's shape without its channel axis; True where a position counts for the
            mean. A sample without any valid position has mean 0.
        return_gate: Return also the gate.

    Returns:
        y of x's shape and dtype; with `return_gate`, (y, gate) with the gate of shape (N, C) in float32, or float64
        where x or weight is. Means, gate and product are computed in that dtype.

    Raises:
        TypeError, ValueError: As listed in docs/errors.md.

    Example:
        >>> import torch
        >>> from eca_multi.torch import eca
        >>> eca(torch.ones(2, 8, 5, 7), torch.zeros(1, 1, 3)).mean()
        tensor(0.5000)

    Source: Wang et al., ECA-Net, CVPR 2020.
    """
    y, g = attend(x, weight, padding, gate, channel_axis, mask)
    return (y, g.reshape(x.shape[0], x.shape[channel_axis])) if return_gate else y


def attend(
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: str,
    gate: Gate,
    channel_axis: int,
    mask: torch.Tensor | None,
    channels: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check everything, and return y and the gates. `channels` is the layer's number, where there is a layer."""
    check_padding(padding)
    check_gate(gate)
    eager = is_eager(x, weight)
    if eager and type(channel_axis) is int:
        shapes = _read_again(x.shape, weight.shape, channel_axis, padding, channels)
    else:
        require_floating("x", x)
        require_floating("weight", weight)
        shapes = read_shapes(x.shape, weight.shape, channel_axis, padding, channels)
    axis, axes, k, gate_shape, is_single = shapes
    if eager and mask is None and is_faster(x, weight, gate, axis):
        return fused_eca(x, weight.reshape(-1, k), padding, str(gate), axis)

    acc = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    valid = None
    if mask is not None:
        require_mask(mask, axis, x)
        valid = mask.expand(*x.shape[:axis], *x.shape[axis + 1 :]).unsqueeze(axis)
        count = valid.sum(axes, dtype=acc).clamp(min=1)
        pooled = torch.where(valid, x, 0).sum(axes, dtype=acc) / count
    elif eager:
        pooled = x.mean(axes, dtype=acc)
    else:
        # A sum stays one all-reduce where x is a DTensor with uneven spatial shards; a mean gathers x.
        pooled = x.sum(axes, dtype=acc) / math.prod([x.shape[i] for i in axes])

    # On small maps every operation counts, one that does nothing too.
    if eager and is_single and weight.dtype == acc and isinstance(gate, str) and conv1d_is_exact(x):
        g = GATES[gate](F.conv1d(pooled[None], weight, padding=k // 2))
    else:
        logits = convolve(gathered(pooled), weight.to(acc).reshape(-1, k), padding)
        g = GATES[gate](logits) if isinstance(gate, str) else gate(logits)
        check_gate_shape(g.shape, logits.shape)
    scale = g.reshape(gate_shape)
    y = x * scale if valid is None else masked_product(x, scale, valid)
    return y if y.dtype == x.dtype else y.to(x.dtype), g


class Shapes(NamedTuple):
    """What the shapes of a call say."""

    axis: int  # of the channels, counted from the front
    axes: tuple[int, ...]  # to average over
    kernel_size: int
    gate: tuple[int, ...]  # the gates' shape beside x
    is_single: bool  # one sample, one kernel (1, 1, k), no wrapping around: what conv1d does in one operation


def read_shapes(
    x: torch.Size, weight: torch.Size, channel_axis: int, padding: str, channels: int | None = None
) -> Shapes:
    """Check the shapes of a call, against the layer's number of channels too where there is a layer."""
    axis = check_channel_axis(channel_axis, x)
    if _is_known(x[axis]) and channels is not None:  # in this order: to look at `channels` is to compare it
        check_channels(channels, axis, x)
    axes = spatial_axes(axis, x)
    kernels, taps = native_kernel("torch", weight)
    k = check_kernel(kernels, taps, x[axis], weight)
    check_circular(padding, k, x[axis])
    gate = tuple(extent if i == 0 or i == axis else 1 for i, extent in enumerate(x))
    return Shapes(axis, axes, k, gate, x[0] == kernels == 1 and len(weight) == 3 and padding == "zeros")


# On small maps the checks would cost as much as a pass over the map; a network meets few shapes.
_read_again = lru_cache(maxsize=1024)(read_shapes)


def _is_known(extent: int | torch.SymInt) -> bool:
    """Whether a channel count may be compared: a dynamic one would get a graph for each value it is compared with."""
    if not torch.compiler.is_compiling():
        return True
    from torch.fx.experimental.symbolic_shapes import has_static_value  # imports sympy: only where needed

    return has_static_value(extent)


def require_floating(name: str, x: torch.Tensor) -> None:
    """Raise TypeError for anything but a floating-point tensor; a NumPy array is named as such."""
    is_tensor = isinstance(x, torch.Tensor)
    check_floating(name, is_tensor and x.dtype.is_floating_point, x if is_tensor else type(x))


def require_mask(mask: torch.Tensor, axis: int, x: torch.Tensor) -> None:
    """Raise for anything but a boolean tensor that fits x."""
    is_tensor = isinstance(mask, torch.Tensor)
    check_mask(is_tensor and mask.dtype == torch.bool, mask if is_tensor else type(mask), axis, x.shape)
