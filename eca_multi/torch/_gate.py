"""From the channels' means to their gates: the small (N, C) part of ECA."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

Gate = str | Callable[[torch.Tensor], torch.Tensor]

GATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda logits: F.relu6(logits + 3) / 6,
    "2sigmoid": lambda logits: 2 * torch.sigmoid(logits),
}

# The derivative of each gate, from its value.
SLOPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": lambda g: g * (1 - g),
    "hard_sigmoid": lambda g: ((g > 0) & (g < 1)).to(g.dtype) / 6,
    "2sigmoid": lambda g: g * (1 - g / 2),
}


def convolve(pooled: torch.Tensor, w: torch.Tensor, padding: str) -> torch.Tensor:
    """Correlate the means (N, C) with one kernel (1, k), or with one per channel (C, k)."""
    # Shifted copies instead of conv1d: that is silently wrong for spatial shards and recompiles per channel count.
    channels, k = pooled.shape[1], w.shape[1]
    half = k // 2
    if padding == "zeros":
        padded = F.pad(pooled, (half, half))
    else:
        padded = torch.cat([pooled[:, channels - half :], pooled, pooled[:, :half]], 1)
    logits = padded[:, :channels] * w[:, 0]
    for j in range(1, k):
        logits = logits + padded[:, j : j + channels] * w[:, j]
    return logits
