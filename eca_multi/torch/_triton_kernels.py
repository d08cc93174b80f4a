"""ECA in two Triton kernels: one read and one write of x forward; one read of x and of dy and one write of dx backward.

A program has one sample and a tile of channels. The gate of a channel needs the means of its neighbours, so a tile
reads `halo` more channels on either side for their sums alone, and no program waits for another:

    tile      halo | own channels | halo        sums over the positions of all of them
    logits           own channels               a band matrix of the kernel's taps, times the tile's means
    y                own channels               x of the tile, times the gate

The tile's first positions stay in registers from the sum to the product. Where those are all of them (`Tile`), memory
is read as often as said above, but for the halo. Other maps are swept a second time from the tile's end on; what the
L2 cache still has of them costs no read of memory. None of this has been timed on a GPU.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._triton import WIDEST

INTERPRETED = triton.knobs.runtime.interpret  # then the kernels run on the CPU, in NumPy

ELEMENTS = 1 << 14  # of a tile at most: 32 for each thread of the 16 warps that it then has
CHANNELS = 64  # of a tile at most; where the channels are innermost in memory, that is 128 bytes or more in a row


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


# --- kernels ------------------------------------------------------------------------------------------------------


@triton.jit
def _place(C, blocks, halo, own, E: tl.constexpr, CIRCULAR: tl.constexpr):
    """The program's sample, its tile's channels, which of those exist, and which it writes."""
    n = (tl.program_id(0) // blocks).to(tl.int64)  # of x, which may have 2**31 elements; a sample has less
    i = tl.arange(0, E)
    c = (tl.program_id(0) % blocks) * own - halo + i
    writes = (i >= halo) & (i < halo + own) & (c < C)
    if CIRCULAR:
        exists = c < C + halo
        c = (c + C) % C
    else:
        exists = (c >= 0) & (c < C)
    return n, c, exists, writes


@triton.jit
def _at(start, M, c, rows, stride_c, stride_s, P: tl.constexpr):
    """Offsets in the sample, and mask, of the tile's elements from position `start` on, in the channels `rows`."""
    s = start + tl.arange(0, P)
    return c[:, None] * stride_c + s[None, :] * stride_s, rows[:, None] & (s < M)[None, :]


@triton.jit
def _read(x, at, mask):
    return tl.load(x + at, mask=mask, other=0.0)


@triton.jit
def _correlate(a, weight, c, exists, k, stride_w, E: tl.constexpr, BACK: tl.constexpr):
    """Sum over j of w[j] a[i + j - k//2], or of w[j] a[i - j + k//2] where BACK, for i in the tile."""
    i = tl.arange(0, E)
    if BACK:  # the kernel is that of the channel which the value comes from
        tap = i[:, None] - i[None, :] + k // 2
        row = c[None, :]
    else:
        tap = i[None, :] - i[:, None] + k // 2
        row = c[:, None]
    inside = (tap >= 0) & (tap < k) & exists[:, None] & exists[None, :]
    w = tl.load(weight + row * stride_w + tap, mask=inside, other=0.0).to(tl.float32)
    return tl.sum(tl.where(inside, w * a[None, :], 0.0), 1)  # 0 * inf would leave the channels that it concerns


@triton.jit
def _gate(z, GATE: tl.constexpr):
    if GATE == "hard_sigmoid":
        g = tl.clamp(z + 3.0, 0.0, 6.0, propagate_nan=tl.PropagateNan.ALL) / 6.0
    elif GATE == "2sigmoid":
        g = 2.0 * tl.sigmoid(z)
    else:
        g = tl.sigmoid(z)
    return g


@triton.jit
def _slope(g, GATE: tl.constexpr):
    """The derivative of the gate, from its value."""
    if GATE == "hard_sigmoid":
        slope = tl.where((g > 0.0) & (g < 1.0), 1.0 / 6.0, 0.0)
    elif GATE == "2sigmoid":
        slope = g * (1.0 - g / 2.0)
    else:
        slope = g * (1.0 - g)
    return slope


@triton.jit
def forward_kernel(
    x, weight, y, pooled, gates, C, M, k, stride_c, stride_s, stride_w, blocks, halo, own,
    E: tl.constexpr, P: tl.constexpr, GATE: tl.constexpr, CIRCULAR: tl.constexpr,
):  # fmt: skip
    n, c, exists, writes = _place(C, blocks, halo, own, E, CIRCULAR)
    x += n * C * M
    y += n * C * M
    at, mask = _at(0, M, c, exists, stride_c, stride_s, P)
    first = _read(x, at, mask)
    total = first.to(tl.float32)
    for start in range(P, M, P):
        at, mask = _at(start, M, c, exists, stride_c, stride_s, P)
        total += _read(x, at, mask).to(tl.float32)
    p = tl.sum(total, 1) / M
    g = _gate(_correlate(p, weight, c, exists, k, stride_w, E, False), GATE)
    tl.store(pooled + n * C + c, p, mask=writes)
    tl.store(gates + n * C + c, g, mask=writes)
    at, mask = _at(0, M, c, writes, stride_c, stride_s, P)
    tl.store(y + at, first.to(tl.float32) * g[:, None], mask=mask)
    for start in range(P, M, P):
        at, mask = _at(start, M, c, writes, stride_c, stride_s, P)
        tl.store(y + at, _read(x, at, mask).to(tl.float32) * g[:, None], mask=mask)


@triton.jit
def backward_kernel(
    dy, x, weight, gates, dg, dx, dlogits, C, M, k, stride_c, stride_s, stride_w, blocks, halo, own,
    E: tl.constexpr, P: tl.constexpr, GATE: tl.constexpr, CIRCULAR: tl.constexpr,
):  # fmt: skip
    n, c, exists, writes = _place(C, blocks, halo, own, E, CIRCULAR)
    x += n * C * M
    dy += n * C * M
    dx += n * C * M
    at, mask = _at(0, M, c, exists, stride_c, stride_s, P)
    first = _read(dy, at, mask)
    total = first.to(tl.float32) * _read(x, at, mask).to(tl.float32)
    for start in range(P, M, P):
        at, mask = _at(start, M, c, exists, stride_c, stride_s, P)
        total += _read(dy, at, mask).to(tl.float32) * _read(x, at, mask).to(tl.float32)
    dgate = tl.sum(total, 1)
    if dg is not None:
        dgate += tl.load(dg + n * C + c, mask=exists, other=0.0)
    g = tl.load(gates + n * C + c, mask=exists, other=0.0)
    dz = dgate * _slope(g, GATE)
    tl.store(dlogits + n * C + c, dz, mask=writes)
    shift = _correlate(dz, weight, c, exists, k, stride_w, E, True) / M
    at, mask = _at(0, M, c, writes, stride_c, stride_s, P)
    tl.store(dx + at, first.to(tl.float32) * g[:, None] + shift[:, None], mask=mask)
    for start in range(P, M, P):
        at, mask = _at(start, M, c, writes, stride_c, stride_s, P)
        tl.store(dx + at, _read(dy, at, mask).to(tl.float32) * g[:, None] + shift[:, None], mask=mask)


# --- operators ----------------------------------------------------------------------------------------------------

# Without register_autograd: torch.func.jvp of such an operator is 0, silently. An autograd.Function calls them.


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
    kernel: triton.JITFunction, tensors: tuple[Tensor | None, ...], x: Tensor, weight: Tensor, padding: str, gate: str
) -> None:
    (channels, k), positions = (x.shape[1], weight.shape[2]), x[0, 0].numel()
    columns = not x.is_contiguous()
    tile = Tile.of(channels, positions, k, padding, columns)
    strides = (1, channels) if columns else (positions, 1)
    with torch.cuda.device_of(x):  # Triton launches on the current device, which may be another one
        kernel[(len(x) * tile.blocks,)](
            *tensors, channels, positions, k, *strides, k if len(weight) > 1 else 0, tile.blocks, tile.halo, tile.own,
            E=tile.channels, P=tile.positions, GATE=gate, CIRCULAR=padding == "circular", num_warps=tile.warps,
        )  # fmt: skip


def _weight_gradient(dlogits: Tensor, pooled: Tensor, weight: Tensor, padding: str) -> Tensor:
    """Sum dlogits times the shifted means, in one order: no atomics, and no matmul, which may be in TF32."""
    channels, half = pooled.shape[1], weight.shape[2] // 2
    if padding == "zeros":
        padded = torch.nn.functional.pad(pooled, (half, half))
    else:
        padded = torch.cat([pooled[:, channels - half :], pooled, pooled[:, :half]], 1)
    terms = dlogits.unsqueeze(1) * padded.unfold(1, channels, 1)  # (N, k, C)
    dw = terms.sum((0, 2)) if len(weight) == 1 else terms.sum(0).t()
    return dw.reshape(weight.shape).to(weight.dtype).contiguous()
