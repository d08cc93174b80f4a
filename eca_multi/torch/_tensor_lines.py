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
from eca_multi._pooling import Pooling

from ._masked_product import masked_product

Gate = str | Callable[[torch.Tensor], torch.Tensor]


class Shapes(NamedTuple):
    """What the shapes of a call say."""

    axis: int  # of the channels, counted from the front
    axes: tuple[int, ...]  # to sum over whole: the pooled ones without the causal one
    kernel_size: int
    gate: tuple[int, ...]  # the gates' shape beside x
    is_single: bool  # one sample, one kernel (1, 1, k), no wrapping around: what conv1d does in one operation
    place: int = 1  # of the channels among the axes that the sum leaves
    running: int | None = None  # the causal axis in (N, C, *kept), along which the mean runs

    @property
    def is_varying(self) -> bool:
        """Whether the gates vary along axes beside the channels."""
        return len(self.axes) < len(self.gate) - 2

    @classmethod
    def of(
        cls, x: torch.Size, axis: int, kernel_size: int, is_single: bool = False, pooling: Pooling | None = None
    ) -> Self:
        if pooling is None:
            pooling = Pooling(tuple(i for i in range(1, len(x)) if i != axis), (), None)
        # Not `i in (0, axis)`: Dynamo, for which the axis may be symbolic, finds a symbolic axis nowhere.
        gate = tuple(extent if i == 0 or i == axis or i in pooling.kept else 1 for i, extent in enumerate(x))
        place = 1 + sum(1 for i in pooling.kept if i < axis)
        is_single = is_single and not pooling.kept
        return cls(axis, pooling.whole, kernel_size, gate, is_single, place, pooling.running)


def attend(
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: str,
    gate: Gate,
    shapes: Shapes,
    valid: torch.Tensor | None = None,
    eager: bool = False,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return y, the gates and the means (N, C, *kept). `valid` is the mask as x's shape with one channel."""
    acc = accumulator(x, weight)
    if valid is not None:
        pooled = sums_of(torch.where(valid, x, 0), shapes, acc) / sums_of(valid, shapes, acc).clamp(min=1)
    elif shapes.running is not None:
        sums = sums_of(x, shapes, acc)
        pooled = sums / counts(sums, shapes.running, math.prod([x.shape[i] for i in shapes.axes]))
    elif eager:
        pooled = x.mean(shapes.axes, dtype=acc)
        if shapes.place != 1:
            pooled = pooled.movedim(shapes.place, 1)
    else:
        # A sum stays one all-reduce where x is a DTensor with uneven spatial shards; a mean gathers x.
        pooled = sums_of(x, shapes, acc) / math.prod([x.shape[i] for i in shapes.axes])
    y, g = gated(x, pooled, weight, padding, gate, shapes, valid, eager, residual)
    return y, g, pooled


def gated(
    x: torch.Tensor,
    pooled: torch.Tensor,
    weight: torch.Tensor,
    padding: str,
    gate: Gate,
    shapes: Shapes,
    valid: torch.Tensor | None = None,
    eager: bool = False,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return y and the gates from the means (N, C, *kept)."""
    # On small maps every operation counts, one that does nothing too.
    acc, k = pooled.dtype, shapes.kernel_size
    if eager and shapes.is_single and weight.dtype == acc and isinstance(gate, str) and conv1d_is_exact(x):
        g = named_gate(gate, F.conv1d(pooled[None], weight, padding=k // 2))
    else:
        logits = convolve(gathered(pooled), weight.to(acc).reshape(-1, k), padding)
        g = named_gate(gate, logits) if isinstance(gate, str) else gate(logits)
        check_gate_shape(g.shape, logits.shape)
    scale = (g if shapes.place == 1 else g.movedim(1, shapes.place)).reshape(shapes.gate)
    if residual is not None and valid is None and eager and not _is_differentiated(x, scale, residual):
        y = torch.addcmul(residual, x, scale)
    else:
        y = x * scale if valid is None else masked_product(x, scale, valid)
        if residual is not None:  # in place where no transform or compiler is at work: no gradient needs the product
            y = y.add_(residual) if eager else y + residual
    return y if y.dtype == x.dtype else y.to(x.dtype), g


def accumulator(x: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)


def _is_differentiated(*tensors: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


# --- the means ---------------------------------------------------------------------------------------------------


def sums_of(x: torch.Tensor, shapes: Shapes, acc: torch.dtype) -> torch.Tensor:
    """Sum over the axes that are summed whole, and up to each position of the causal one: (N, C, *kept)."""
    sums = x.sum(shapes.axes, dtype=acc) if shapes.axes else x.to(acc)  # of no axes torch would sum all
    if shapes.place != 1:
        sums = sums.movedim(shapes.place, 1)
    return sums if shapes.running is None else running(gathered(sums, shapes.running), shapes.running)


def running(sums: torch.Tensor, axis: int) -> torch.Tensor:
    """Sum up to each position of the axis without drift: one float32 sum over a million steps would lose digits."""
    if sums.is_cpu:  # torch's own running sum is in float64 there
        return sums.cumsum(axis)
    if sums.device.type == "mps":  # it has no float64
        return running_in_blocks(sums, axis)
    return sums.to(torch.float64).cumsum(axis).to(sums.dtype)


def running_in_blocks(sums: torch.Tensor, axis: int) -> torch.Tensor:
    """Sum within blocks, and over the blocks before: the longest chain of additions is a block and their number."""
    block = 1024
    steps = sums.shape[axis]
    last = sums.movedim(axis, -1)
    inside = F.pad(last, (0, -steps % block)).unfold(-1, block, block).cumsum(-1)
    before = F.pad(inside[..., :-1, -1].cumsum(-1), (1, 0))
    return (inside + before.unsqueeze(-1)).flatten(-2)[..., :steps].movedim(-1, axis)


def counts(sums: torch.Tensor, axis: int, positions: int) -> torch.Tensor:
    """The number of positions up to each step, `positions` of them at each, in the shape that divides `sums`."""
    steps = sums.new_ones([sums.shape[axis]]).cumsum(0) * positions  # a DTensor, where sums is one: arange is none
    return steps.reshape([-1 if i == axis else 1 for i in range(sums.dim())])


# --- the gates ---------------------------------------------------------------------------------------------------


def named_gate(gate: str, logits: torch.Tensor) -> torch.Tensor:
    if gate == "sigmoid":
        return torch.sigmoid(logits)
    if gate == "hard_sigmoid":
        return F.relu6(logits + 3) / 6
    return 2 * torch.sigmoid(logits)


def convolve(pooled: torch.Tensor, w: torch.Tensor, padding: str) -> torch.Tensor:
    """Correlate the means (N, C, *kept) with one kernel (1, k), or with one per channel (C, k)."""
    # Shifted copies instead of conv1d, which is silently wrong for spatial shards and recompiles per channel count.
    channels, k = pooled.shape[1], w.shape[1]
    padded = pad_channels(pooled, k // 2, padding)
    if pooled.dim() > 2:
        w = w.reshape([w.shape[0], k] + [1] * (pooled.dim() - 2))
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
    """Give (N, C, *kept) `half` more channels on either side: zeros, or those of the other end."""
    if padding == "zeros":
        return F.pad(rows, [0, 0] * (rows.dim() - 2) + [half, half])
    return torch.cat([rows[:, rows.shape[1] - half :], rows, rows[:, :half]], 1)


def gathered(pooled: torch.Tensor, axis: int = 1) -> torch.Tensor:
    """The means with the whole axis, the channels or the causal one, on every device, where they are a DTensor.

    DTensor has no halo: of channel shards it would otherwise spread the samples, and move x's gradient after them.
    """
    if not hasattr(pooled, "redistribute"):  # only a DTensor has the method; its class takes long to import
        return pooled
    from torch.distributed.tensor import Replicate

    shards: Any = pooled
    whole: torch.Tensor = shards.redistribute(
        placements=[Replicate() if placement.is_shard(axis) else placement for placement in shards.placements]
    )
    return whole


def conv1d_is_exact(x: torch.Tensor) -> bool:
    """Whether conv1d computes in x's precision: on CUDA it may round to TF32, and autocast narrows it."""
    return x.is_cpu and not torch.is_autocast_enabled("cpu")


def scripted_eca(
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: str,
    gate: str,
    channel_axis: int,
    pool_axes: list[int],
    causal_axis: int | None,
    mask: torch.Tensor | None,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """Do as `attend`, for TorchScript, which knows no callable gate and no custom derivative, so no mask either.

    `pool_axes` is empty where all but batch and channels are pooled.
    """
    if mask is not None:
        raise ValueError(
            "mask must be None in a scripted ECA. Received: a mask. Use the layer without torch.jit.script."
        )
    rank = x.dim()
    axis = channel_axis % rank
    causal = 0 if causal_axis is None else causal_axis % rank  # 0 is the batch: none
    pooled_axes = [i % rank for i in pool_axes]
    axes: list[int] = []
    place = 1
    run = 1
    positions = 1
    shape = [1 for _ in range(rank)]
    shape[0], shape[axis] = x.shape[0], x.shape[axis]
    for i in range(1, rank):  # TorchScript has no comprehension with an `if`
        if i == axis:
            continue
        if i != causal and (len(pooled_axes) == 0 or i in pooled_axes):
            axes.append(i)
            positions *= x.shape[i]
        else:
            shape[i] = x.shape[i]
            place += int(i < axis)
            run += int(i <= causal)
    acc = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    sums = (x.sum(axes, dtype=acc) if len(axes) > 0 else x.to(acc)).movedim(place, 1)
    pooled = running(sums, run) / counts(sums, run, positions) if causal > 0 else sums / positions
    g = named_gate(gate, convolve(pooled, weight.to(acc).reshape(-1, weight.shape[-1]), padding))
    y = x * g.movedim(1, place).reshape(shape)
    return (y if residual is None else y + residual).to(x.dtype)
