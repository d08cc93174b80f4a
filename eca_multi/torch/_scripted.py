"""What TorchScript needs of the layer: it knows no callable gate, no message of a check and no custom derivative.

So a scripted layer takes the three named gates and no mask. `_tensor_lines.attend` is the statement to read.
"""

import torch

from ._tensor_lines import convolve, named_gate


def scripted_eca(
    x: torch.Tensor, weight: torch.Tensor, padding: str, gate: str, channel_axis: int, mask: torch.Tensor | None
) -> torch.Tensor:
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
