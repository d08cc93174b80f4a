"""From the channels' means to their gates: the small (N, C) part of ECA."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Gate = str | Callable[[torch.Tensor], torch.Tensor]

GATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda logits: F.relu6(logits + 3) / 6,
    "2sigmoid": lambda logits: 2 * torch.sigmoid(logits),
}


def along_slope(gate: str, g: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """d times the derivative of the gate, from its value."""
    if gate == "hard_sigmoid":
        return (d / 6).masked_fill((g <= 0) | (g >= 1), 0)  # not a product: 0 * inf is NaN, and NaN has a slope
    return g * (1 - g / 2 if gate == "2sigmoid" else 1 - g) * d


def convolve(pooled: torch.Tensor, w: torch.Tensor, padding: str) -> torch.Tensor:
    """Correlate the means (N, C) with one kernel (1, k), or with one per channel (C, k)."""
    # Shifted copies instead of conv1d: that is silently wrong for spatial shards and recompiles per channel count.
    channels, k = pooled.shape[1], w.shape[1]
    padded = _padded(pooled, k // 2, padding)
    # Compiled, the taps take two copies in turn: the means' gradient then ends in a sum over both, which inductor does
    # once. Without, it fuses the shifts of all taps into the loop over dx and computes them at each position.
    copies = padded.expand(2, *padded.shape) if torch.compiler.is_compiling() else (padded, padded)
    logits = copies[0][:, :channels] * w[:, 0]
    for j in range(1, k):
        logits = logits + copies[j % 2][:, j : j + channels] * w[:, j]
    return logits


def gathered(pooled: torch.Tensor) -> torch.Tensor:
    """The means with all channels on every device, where they are a DTensor of channel shards.

    DTensor has no halo; left to itself it spreads the samples instead, and then moves x's gradient after them.
    """
    if not hasattr(pooled, "redistribute"):  # a DTensor alone has it; its class takes long to import
        return pooled
    from torch.distributed.tensor import Replicate

    shards: Any = pooled
    whole: torch.Tensor = shards.redistribute(
        placements=[Replicate() if placement.is_shard(1) else placement for placement in shards.placements]
    )
    return whole


def conv1d_is_exact(x: torch.Tensor) -> bool:
    """On CUDA conv1d may round to TF32, and autocast narrows it."""
    return x.is_cpu and not torch.is_autocast_enabled("cpu")


def convolve_plain(pooled: torch.Tensor, w: torch.Tensor, padding: str) -> torch.Tensor:
    """`convolve` of plain tensors outside of autograd, in place."""
    return _correlate(_padded(pooled, w.shape[1] // 2, padding), [*w.T])


def convolve_backward(
    dlogits: torch.Tensor, pooled: torch.Tensor, w: torch.Tensor, padding: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of `convolve` by the means and by w. (On the CPU conv1d's take up to twenty times as long.)"""
    channels, k = pooled.shape[1], w.shape[1]
    half = k // 2
    is_shared = len(w) == 1
    means, dz = _padded(pooled, half, padding), _padded(dlogits, half, padding)
    products = (dlogits * means[:, j : j + channels] for j in range(k))
    dw = torch.stack([product.sum() if is_shared else product.sum(0) for product in products], -1)
    # Channel c is read by channel c + j - half through its tap k - 1 - j.
    taps = w.T if is_shared else _padded(w.T, half, padding)
    back = [taps[k - 1 - j] if is_shared else taps[k - 1 - j, j : j + channels] for j in range(k)]
    return _correlate(dz, back), dw.view(w.shape)


def _correlate(padded: torch.Tensor, taps: list[torch.Tensor]) -> torch.Tensor:
    channels = padded.shape[1] - len(taps) + 1
    result = padded[:, :channels] * taps[0]
    for j, tap in enumerate(taps[1:], 1):
        result.addcmul_(padded[:, j : j + channels], tap)
    return result


def _padded(rows: torch.Tensor, half: int, padding: str) -> torch.Tensor:
    if padding == "zeros":
        return F.pad(rows, (half, half))
    return torch.cat([rows[:, rows.shape[1] - half :], rows, rows[:, :half]], 1)
