"""The tensor lines once more, in what TorchScript understands; `functional.eca` is the one to read.

TorchScript has no dict of functions, no callable gate and none of the messages: a scripted layer takes the three named
gates and no mask.
"""

import torch
import torch.nn.functional as F


def scripted_eca(
    x: torch.Tensor, weight: torch.Tensor, padding: str, gate: str, channel_axis: int, mask: torch.Tensor | None
) -> torch.Tensor:
    if mask is not None:
        raise ValueError(
            "mask must be None in a scripted ECA. Received: a mask. Use the layer without torch.jit.script."
        )
    axis = channel_axis + x.dim() if channel_axis < 0 else channel_axis
    channels = x.shape[axis]
    k = weight.shape[-1]
    half = k // 2
    acc = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)

    axes: list[int] = []
    count = 1
    for i in range(1, x.dim()):
        if i != axis:
            axes.append(i)
            count *= x.shape[i]
    pooled = x.sum(axes, dtype=acc) / count

    w = weight.to(acc).reshape(-1, k)
    if padding == "zeros":
        padded = F.pad(pooled, [half, half])
    else:
        padded = torch.cat([pooled[:, channels - half :], pooled, pooled[:, :half]], 1)
    logits = padded[:, :channels] * w[:, 0]
    for j in range(1, k):
        logits = logits + padded[:, j : j + channels] * w[:, j]

    if gate == "2sigmoid":
        g = 2 * torch.sigmoid(logits)
    elif gate == "hard_sigmoid":
        g = F.relu6(logits + 3) / 6
    else:
        g = torch.sigmoid(logits)
    shape = [1 for _ in range(x.dim())]
    shape[0], shape[axis] = -1, channels
    return (x * g.reshape(shape)).to(x.dtype)
