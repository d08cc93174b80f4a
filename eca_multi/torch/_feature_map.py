"""A feature map as it lies in memory, and the two passes over it that ECA needs: sums, and a scaling.

On a CPU fresh memory costs most, ten times as much as reading it again: a pass allocates its result alone, and works in
blocks that stay in the cache.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

BLOCK = 1 << 20  # elements: 4 MB in float32

Part = tuple[slice, slice]  # of the first two axes


class FeatureMap(NamedTuple):
    """x of shape (N, C, *S) as (N * C, S, 1), or as (N, S, C) where its channels are last in memory."""

    data: Tensor
    shape: torch.Size
    axis: int  # of the channels in `shape`

    @classmethod
    def of(cls, x: Tensor, axis: int) -> Self | None:
        """None where the channels are neither before nor after all positions in memory."""
        if not x.numel():
            return None
        first = x if axis == 1 else x.movedim(axis, 1)
        if first.is_contiguous():
            return cls(first.reshape(len(x) * x.shape[axis], -1, 1), x.shape, axis)
        last = x.movedim(axis, -1)
        if last.is_contiguous():
            return cls(last.flatten(1, -2), x.shape, axis)
        return None

    @property
    def positions(self) -> int:
        return self.data.shape[1]

    @property
    def acc(self) -> torch.dtype:
        return torch.promote_types(self.data.dtype, torch.float32)

    def aligned(self, other: Tensor) -> Self:
        """Another tensor of x's shape in this layout; a copy where it lies otherwise, as the gradient of a sum does."""
        found = self.of(other, self.axis)
        if found is None or found.data.shape != self.data.shape:
            found = self._replace(data=torch.empty_like(self.data))
            found.tensor().copy_(other)
        return found

    def tensor(self) -> Tensor:
        """The map in x's shape again."""
        n, *rest = self.shape
        channels = rest.pop(self.axis - 1)
        if self.data.shape[2] == channels:
            return self.data.view(n, *rest, channels).movedim(-1, self.axis)
        return self.data.view(n, channels, *rest).movedim(1, self.axis)

    def sums(self, other: Self | None = None, memory: Tensor | None = None) -> Tensor:
        """Sum the map, or its product with another of the same layout, over the positions: (N, C) in float32.

        `memory` is a tensor like `data` that may be written over.
        """
        if other is None and self.data.dtype == self.acc:
            sums = self.data.sum(1)
        else:
            if memory is None or memory.dtype != self.acc:
                memory = self._block_memory()
            sums = self.data.new_zeros(len(self.data), self.data.shape[2], dtype=self.acc)
            for part in self._parts():
                x, d = self.data[part], None if other is None else other.data[part]
                sums[part[0]] += _product(x, d, memory).sum(1)
        return sums.view(self.shape[0], -1)

    def scaled(self, g: Tensor, shift: Tensor | None = None, memory: Tensor | None = None) -> Self:
        """x * g, or x * g + shift, of both (N, C) in float32, rounded once to x's dtype; written to `memory`."""
        x, size = self.data, (len(self.data), 1, self.data.shape[2])
        g, shift = g.reshape(size), None if shift is None else shift.reshape(size)
        if x.dtype == self.acc:
            y = torch.mul(x, g, out=memory)
            return self._replace(data=y if shift is None else y.add_(shift))
        y = torch.empty_like(x) if memory is None else memory
        if x.shape[2] == 1:
            _affine(x, g, shift, y)
        else:
            block = self._block_memory()
            for part in self._parts():
                wide = _product(x[part], g[part[0]], block)
                y[part] = wide if shift is None else wide.add_(shift[part[0]])
        return self._replace(data=y)

    def _parts(self) -> Iterator[Part]:
        count, positions, channels = self.data.shape
        step = max(1, BLOCK // (positions * channels))
        span = max(1, min(positions, BLOCK // channels))
        for i in range(0, count, step):
            for s in range(0, positions, span):
                yield slice(i, i + step), slice(s, s + span)

    def _block_memory(self) -> Tensor:
        size = min(self.data.numel(), max(BLOCK, self.data.shape[2]))
        return self.data.new_empty(size, dtype=self.acc)


def _product(x: Tensor, d: Tensor | None, memory: Tensor) -> Tensor:
    """x, or x * d, in the dtype and at the start of `memory`."""
    block = memory.view(-1)[: x.numel()].view(x.shape)
    if d is not None and x.dtype == d.dtype == block.dtype:
        return torch.mul(x, d, out=block)
    block.copy_(x)
    return block if d is None else block.mul_(d)


def _affine(rows: Tensor, scale: Tensor, shift: Tensor | None, out: Tensor) -> None:
    """out = rows * scale + shift: batch normalisation at inference does that to half precision, rounding once."""
    scale = scale.flatten()
    zeros, ones, unused = torch.zeros_like(scale), torch.ones_like(scale), scale.new_empty(0)
    bias = zeros if shift is None else shift.flatten()
    x, y = (t.view(1, len(t), -1) for t in (rows, out))
    torch.native_batch_norm(x, scale, bias, zeros, ones, False, 0.0, 0.0, out=(y, unused, unused))
