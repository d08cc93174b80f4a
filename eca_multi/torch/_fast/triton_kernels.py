"""ECA in two Triton kernels: one read and one write of x forward; one read of x and of dy and one write of dx backward.

A program has one sample and a tile of channels. The gate of a channel needs the means of its neighbours, so a tile
reads `halo` more channels on either side for their sums alone, and no program waits for another:

    tile      halo | own channels | halo        sums over the positions of all of them
    logits           own channels               a band matrix of the kernel's taps, times the tile's means
    y                own channels               x of the tile, times the gate

The tile's first `P` positions stay in registers from the sum to the product. Where those are all of them (`Tile`),
memory is read as often as said above, but for the halo. Of other maps the rest is read a second time; what the L2 cache
still has of it costs no read of memory. None of this has been timed on a GPU.

Names of one letter are shapes: C channels, M positions, E channels and P positions of a tile, k taps.
"""

import triton
import triton.language as tl

INTERPRETED = triton.knobs.runtime.interpret  # then the kernels run on the CPU, in NumPy


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
def _offsets(start, M, c, rows, stride_c, stride_s, P: tl.constexpr):
    """Offsets in the sample, and mask, of the tile's elements from position `start` on, in the channels `rows`."""
    s = start + tl.arange(0, P)
    return c[:, None] * stride_c + s[None, :] * stride_s, rows[:, None] & (s < M)[None, :]


@triton.jit
def _read(x, offsets, mask):
    return tl.load(x + offsets, mask=mask, other=0.0)


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
    offsets, mask = _offsets(0, M, c, exists, stride_c, stride_s, P)
    first = _read(x, offsets, mask)
    total = first.to(tl.float32)
    for start in range(P, M, P):
        offsets, mask = _offsets(start, M, c, exists, stride_c, stride_s, P)
        total += _read(x, offsets, mask).to(tl.float32)
    p = tl.sum(total, 1) / M
    g = _gate(_correlate(p, weight, c, exists, k, stride_w, E, False), GATE)
    tl.store(pooled + n * C + c, p, mask=writes)
    tl.store(gates + n * C + c, g, mask=writes)
    offsets, mask = _offsets(0, M, c, writes, stride_c, stride_s, P)
    tl.store(y + offsets, first.to(tl.float32) * g[:, None], mask=mask)
    for start in range(P, M, P):
        offsets, mask = _offsets(start, M, c, writes, stride_c, stride_s, P)
        tl.store(y + offsets, _read(x, offsets, mask).to(tl.float32) * g[:, None], mask=mask)


@triton.jit
def backward_kernel(
    dy, x, weight, gates, dg, dx, dlogits, C, M, k, stride_c, stride_s, stride_w, blocks, halo, own,
    E: tl.constexpr, P: tl.constexpr, GATE: tl.constexpr, CIRCULAR: tl.constexpr,
):  # fmt: skip
    n, c, exists, writes = _place(C, blocks, halo, own, E, CIRCULAR)
    x += n * C * M
    dy += n * C * M
    dx += n * C * M
    offsets, mask = _offsets(0, M, c, exists, stride_c, stride_s, P)
    first = _read(dy, offsets, mask)
    total = first.to(tl.float32) * _read(x, offsets, mask).to(tl.float32)
    for start in range(P, M, P):
        offsets, mask = _offsets(start, M, c, exists, stride_c, stride_s, P)
        total += _read(dy, offsets, mask).to(tl.float32) * _read(x, offsets, mask).to(tl.float32)
    dgate = tl.sum(total, 1)
    if dg is not None:
        dgate += tl.load(dg + n * C + c, mask=exists, other=0.0)
    g = tl.load(gates + n * C + c, mask=exists, other=0.0)
    dz = dgate * _slope(g, GATE)
    tl.store(dlogits + n * C + c, dz, mask=writes)
    shift = _correlate(dz, weight, c, exists, k, stride_w, E, True) / M
    offsets, mask = _offsets(0, M, c, writes, stride_c, stride_s, P)
    tl.store(dx + offsets, first.to(tl.float32) * g[:, None] + shift[:, None], mask=mask)
    for start in range(P, M, P):
        offsets, mask = _offsets(start, M, c, writes, stride_c, stride_s, P)
        tl.store(dx + offsets, _read(dy, offsets, mask).to(tl.float32) * g[:, None] + shift[:, None], mask=mask)
