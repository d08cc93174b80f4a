"""The Triton kernels as operators of PyTorch, `eca_multi::forward` and `eca_multi::backward`: launches and shapes.

Without register_autograd: torch.func.jvp of such an operator is 0, silently. An autograd.Function calls them.
"""

from typing import Any

import torch
from torch import Tensor

from eca_multi.torch._tensor_lines import pad_channels

from .triton_kernels import backward_kernel, forward_kernel
from .triton_tile import Tile


@torch.library.custom_op("eca_multi::forward", mutates_args=())
def forward(x: Tensor, weight: Tensor, padding: str, gate: str) -> tuple[Tensor, Tensor, Tensor]:
    y, pooled, g = _outputs(x)
    _launch(forward_kernel, (x, weight.contiguous(), y, pooled, g), x, weight, padding, gate)
    return y, pooled, g


@torch.library.custom_op("eca_multi::backward", mutates_args=())
def backward(
    dy: Tensor, x: Tensor, weight: Tensor, pooled: Tensor, g: Tensor, dg: Tensor | None, padding: str, gate: str
) -> tuple[Tensor, Tensor]:
    dx, dlogits = torch.empty_like(x), torch.empty_like(g)
    if dy.stride() != x.stride():  # as of a sum: expanded, or in another order
        dy = torch.empty_like(x).copy_(dy)
    dg = None if dg is None else dg.contiguous()
    _launch(backward_kernel, (dy, x, weight.contiguous(), g, dg, dx, dlogits), x, weight, padding, gate)
    return dx, _weight_gradient(dlogits, pooled, weight, padding)


@forward.register_fake
def _outputs(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    means = x.new_empty(x.shape[:2], dtype=torch.float32)
    return torch.empty_like(x), means, torch.empty_like(means)


@backward.register_fake
def _gradients(dy: Tensor, x: Tensor, weight: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), weight.new_empty(weight.shape)


def _launch(
    kernel: Any, tensors: tuple[Tensor | None, ...], x: Tensor, weight: Tensor, padding: str, gate: str
) -> None:
    (channels, k), positions = (x.shape[1], weight.shape[2]), x[0, 0].numel()
    columns = not x.is_contiguous()
    tile = Tile.of(channels, positions, k, padding, columns)
    strides = (1, channels) if columns else (positions, 1)
    # Triton launches on the current device, which may be another one than x's.
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # not annotated
        kernel[(len(x) * tile.blocks,)](
            *tensors, channels, positions, k, *strides, k if len(weight) > 1 else 0, tile.blocks, tile.halo, tile.own,
            E=tile.channels, P=tile.positions, GATE=gate, CIRCULAR=padding == "circular", num_warps=tile.warps,
        )  # fmt: skip


def _weight_gradient(dlogits: Tensor, pooled: Tensor, weight: Tensor, padding: str) -> Tensor:
    """Sum dlogits times the shifted means, in one order: no atomics, and no matmul, which may be in TF32."""
    channels, half = pooled.shape[1], weight.shape[2] // 2
    terms = dlogits.unsqueeze(1) * pad_channels(pooled, half, padding).unfold(1, channels, 1)  # (N, k, C)
    dw = terms.sum((0, 2)) if len(weight) == 1 else terms.sum(0).t()
    return dw.reshape(weight.shape).to(weight.dtype).contiguous()
