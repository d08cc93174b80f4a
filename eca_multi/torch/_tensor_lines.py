"""The tensor lines of the layer: `attend` for eager mode, compilers and transforms, `scripted_eca` for TorchScript.

TorchScript compiles `convolve` and `named_gate` too, so these two hold no dict of functions and no `# type:` comment.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch.jit import is_scripting  # type: ignore[attr-defined]  # torch.jit lists no names

from eca_multi._errors import check_gate_shape

from ._masked_product import masked_product

Gate = str | Callable[[torch.Tensor], torch.Tensor]


class Shapes(NamedTuple):
    """What the shapes of a call say."""

    axis: int  # of the channels, counted from the front
    axes: tuple[int, ...]  # to average over
    kernel_size: int
    gate: tuple[int, ...]  # the gates' shape beside x
    is_single: bool  # one sample, one kernel (1, 1, k), no wrapping around: what conv1d does in one operation

    @classmethod
    def of(cls, x: torch.Size, axis: int, kernel_size: int, is_single: bool = False) -> Self:
        # Not `i in (0, axis)`: Dynamo, for which the axis may be symbolic, finds a symbolic axis nowhere.
        gate = tuple(extent if i == 0 or i == axis else 1 for i, extent in enumerate(x))
        return cls(axis, tuple(i for i in range(1, len(x)) if i != axis), kernel_size, gate, is_single)


def attend(
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: str,
    gate: Gate,
    shapes: Shapes,
    valid: torch.Tensor | None = None,
    eager: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return y, the gates and the means (N, C). `valid` is the mask as x's shape with one channel."""
    acc = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    if valid is not None:
        count = valid.sum(shapes.axes, dtype=acc).clamp(min=1)
        pooled = torch.where(valid, x, 0).sum(shapes.axes, dtype=acc) / count
    elif eager:
        pooled = x.mean(shapes.axes, dtype=acc)
    else:
        # A sum stays one all-reduce where x is a DTensor with uneven spatial shards; a mean gathers x.
        pooled = x.sum(shapes.axes, dtype=acc) / math.prod([x.shape[i] for i in shapes.axes])

    # On small maps every operation counts, one that does nothing too.
    k = shapes.kernel_size
    if eager and shapes.is_single and weight.dtype == acc and isinstance(gate, str) and conv1d_is_exact(x):
        g = named_gate(gate, F.conv1d(pooled[None], weight, padding=k // 2))
    else:
        logits = convolve(gathered(pooled), weight.to(acc).reshape(-1, k), padding)
        g = named_gate(gate, logits) if isinstance(gate, str) else gate(logits)
        check_gate_shape(g.shape, logits.shape)
    scale = g.reshape(shapes.gate)
    y = x * scale if valid is None else masked_product(x, scale, valid)
    return y if y.dtype == x.dtype else y.to(x.dtype), g, pooled


def named_gate(gate: str, logits: torch.Tensor) -> torch.Tensor:
    if gate == "sigmoid":
        return torch.sigmoid(logits)
    if gate == "hard_sigmoid":
        return F.relu6(logits + 3) / 6
    return 2 * torch.sigmoid(logits)


def convolve(pooled: torch.Tensor, w: torch.Tensor, padding: str) -> torch.Tensor:
    """Correlate the means (N, C) with one kernel (1, k), or with one per channel (C, k)."""
    # Shifted copies instead of conv1d, which is silently wrong for spatial shards and recompiles per channel count.
    channels, k = pooled.shape[1], w.shape[1]
    padded = pad_channels(pooled, k // 2, padding)
    # Compiled, the taps take two copies in turn: the means' gradient then ends in a sum over both, which inductor
    # computes once. With one copy it fuses the shifts of all taps into the loop over dx, and repeats them per position.
    copies = (padded, padded)
    if not is_scripting() and torch.compiler.is_compiling():
        copies = cast("tuple[torch.Tensor, torch.Tensor]", padded.expand(2, *padded.shape))  # TorchScript has no union
    logits = copies[0][:, :channels] * w[:, 0]
    for j in range(1, k):
        logits = logits + copies[j % 2][:, j : j + channels] * w[:, j]
    return logits


def pad_channels(rows: torch.Tensor, half: int, padding: str) -> torch.Tensor:
    """Give (N, C) `half` more channels on either side: zeros, or those of the other end."""
    if padding == "zeros":
        return F.pad(rows, (half, half))
    return torch.cat([rows[:, rows.shape[1] - half :], rows, rows[:, :half]], 1)


def gathered(pooled: torch.Tensor) -> torch.Tensor:
    """The means with all channels on every device, where they are a DTensor of channel shards.

    DTensor has no halo: without this line it would spread the samples instead, and move x's gradient after them.
    """
    if not hasattr(pooled, "redistribute"):  # only a DTensor has the method; its class takes long to import
        return pooled
    from torch.distributed.tensor import Replicate

    shards: Any = pooled
    whole: torch.Tensor = shards.redistribute(
        placements=[Replicate() if placement.is_shard(1) else placement for placement in shards.placements]
    )
    return whole


def conv1d_is_exact(x: torch.Tensor) -> bool:
    """Whether conv1d computes in x's precision: on CUDA it may round to TF32, and autocast narrows it."""
    return x.is_cpu and not torch.is_autocast_enabled("cpu")


def scripted_eca(
    x: torch.Tensor, weight: torch.Tensor, padding: str, gate: str, channel_axis: int, mask: torch.Tensor | None
) -> torch.Tensor:
    """Do as `attend`, for TorchScript, which knows no callable gate and no custom derivative, so no mask either."""
    if mask is not None:
        raise ValueError(
            "mask must be None in a scripted ECA. Received: a mask. Use the layer without torch.jit.script."
        )
    axis = channel_axis + x.dim() if channel_axis < 0 else channel_axis
    axes: list[int] = []
    for i in range(1, x.dim()):  # TorchScript has no comprehension with an `if`
        if i != axis:
            axes.append(i)
    acc = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    pooled = x.mean(axes, dtype=acc)
    g = named_gate(gate, convolve(pooled, weight.to(acc).reshape(-1, weight.shape[-1]), padding))
    shape = [1 for _ in range(x.dim())]
    shape[0], shape[axis] = -1, x.shape[axis]
    return (x * g.reshape(shape)).to(x.dtype)
