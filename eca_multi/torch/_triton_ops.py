"""The Triton kernels as operators of PyTorch, `eca_multi::forward` and `eca_multi::backward`: tiles, launches, shapes.

Without register_autograd: torch.func.jvp of such an operator is 0, silently. An autograd.Function calls them.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from ._triton import WIDEST
from ._triton_kernels import backward_kernel, forward_kernel

ELEMENTS = 1 << 14  # of a tile at most: 32 for each thread of the 16 warps that it then has
CHANNELS = 64  # of a tile, but for kernels of more than 33 taps: where they are innermost in memory, 128 bytes or more


class Tile(NamedTuple):
    """What a program has of a sample: `channels` by `positions`, both powers of two; it writes `own` channels."""

    channels: int
    positions: int
    halo: int
    own: int
    blocks: int

    @classmethod
    def of(cls, channels: int, positions: int, k: int, padding: str, columns: bool) -> "Tile":
        """Choose the tile. `columns`: the channels are innermost in memory."""
        if padding == "zeros" and channels <= CHANNELS:
            wide, halo = triton.next_power_of_2(channels), 0  # all there are: beyond them are zeros
            least = wide
        else:
            halo = k // 2 if padding == "circular" else min(k // 2, channels - 1)
            if halo > WIDEST // 2:
                raise ValueError(
                    f"weight must have at most {WIDEST} taps for the Triton kernels. Received: {k}. "
                    "Ask available(x, weight) first."
                )
            wide = max(CHANNELS, triton.next_power_of_2(4 * halo))  # half of the channels are its own, at least
            wide = min(wide, triton.next_power_of_2(channels + 2 * halo))
            least = wide if columns else min(wide, triton.next_power_of_2(max(1, 8 * halo)))  # three quarters
        span = triton.next_power_of_2(positions)
        # As many channels as leave room for all positions; where even `least` does not, positions in several steps.
        while wide > least and wide * span > ELEMENTS:
            wide //= 2
        span = min(span, max(1, ELEMENTS // wide))
        own = wide - 2 * halo
        return cls(wide, span, halo, own, triton.cdiv(channels, own))

    @property
    def warps(self) -> int:
        return min(16, max(4, self.channels * self.positions // 512))


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
    if padding == "zeros":
        padded = F.pad(pooled, (half, half))
    else:
        padded = torch.cat([pooled[:, channels - half :], pooled, pooled[:, :half]], 1)
    terms = dlogits.unsqueeze(1) * padded.unfold(1, channels, 1)  # (N, k, C)
    dw = terms.sum((0, 2)) if len(weight) == 1 else terms.sum(0).t()
    return dw.reshape(weight.shape).to(weight.dtype).contiguous()
