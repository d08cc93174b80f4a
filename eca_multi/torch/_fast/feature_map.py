"""A feature map as it lies in memory, and the two passes over it that ECA needs: sums, and a scaling.

On a CPU fresh memory costs most, ten times as much as reading memory again: a pass allocates its result alone, and
works in blocks that stay in the cache.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from . import batch_norm

BLOCK = 1 << 20  # elements: 4 MB in float32
LONG_ROW = 512  # positions
LONG_COLUMNS = 1 << 17  # elements of a sample
LONG_HALF_COLUMNS = 1 << 16  # of half precision, whose blocks take more than one pass

Part = tuple[slice, slice]  # of the first two axes


def layout_of(x: Tensor, axis: int) -> str | None:
    """How x lies in memory: in "rows" of positions, in "columns" of channels, or otherwise."""
    if not x.numel():
        return None
    if (x if axis == 1 else x.movedim(axis, 1)).is_contiguous():
        return "rows"
    return "columns" if x.movedim(axis, -1).is_contiguous() else None


class FeatureMap(NamedTuple):
    """A view of x, of shape (N, C, *S): rows are (N * C, S, 1), columns are (N, S, C)."""

    data: Tensor
    samples: int

    @classmethod
    def of(cls, x: Tensor, axis: int, layout: str) -> Self:
        x = x.resolve_neg()  # torch's copy_ from float16 to float32 loses a sign that is a bit of the view
        if layout == "rows":
            return cls(x.movedim(axis, 1).view(len(x) * x.shape[axis], -1, 1), len(x))
        return cls(x.movedim(axis, -1).flatten(1, -2), len(x))

    @property
    def positions(self) -> int:
        return self.data.shape[1]

    @property
    def acc(self) -> torch.dtype:
        return torch.promote_types(self.data.dtype, torch.float32)

    @property
    def is_long(self) -> bool:
        """Whether batch normalisation's kernels are worth a call for all rows, or a call for each sample of columns."""
        _, positions, channels = self.data.shape
        return positions >= LONG_ROW if channels == 1 else positions * channels >= LONG_COLUMNS

    @property
    def is_long_to_widen(self) -> bool:
        """The same, where the other way would widen a second map, or narrow its result, block by block."""
        _, positions, channels = self.data.shape
        is_half = self.data.dtype != self.acc
        return self.is_long or (is_half and channels > 1 and positions * channels >= LONG_HALF_COLUMNS)

    def sums(self, other: Self | None = None) -> Tensor:
        """Sum the map, or its product with another of the same layout, over the positions: (N, C) in float32."""
        is_wide, is_rows = self.data.dtype == self.acc, self.data.shape[2] == 1
        is_long = self.is_long if other is None else self.is_long_to_widen
        if other is None and is_wide:
            sums = self.data.sum(1)
        elif self._has_kernel(other or self) and (is_long or (is_wide and is_rows)):
            sums = batch_norm.sums(self.data) if other is None else batch_norm.products(self.data, other.data)
        else:
            memory = self._block_memory(1 if other is None else 2)
            sums = self.data.new_zeros(len(self.data), self.data.shape[2], dtype=self.acc)
            for part in self._parts():
                x, d = self.data[part], None if other is None else other.data[part]
                sums[part[0]] += _product(x, d, memory).sum(1)
        return sums.view(self.samples, -1)

    def _has_kernel(self, other: Self) -> bool:
        return self.data.dtype == other.data.dtype and batch_norm.can_sum(self.data)

    def scaled(self, g: Tensor, shift: Tensor | None, out: Self) -> None:
        """out = x * g + shift, of both (N, C) in float32, rounded once to x's dtype."""
        x, y, size = self.data, out.data, (len(self.data), 1, self.data.shape[2])
        is_wide, is_rows = x.dtype == self.acc, x.shape[2] == 1
        g, shift = g.reshape(size), None if shift is None else shift.reshape(size)
        if is_wide and shift is None:
            torch.mul(x, g, out=y)
        elif is_wide and shift is not None and not is_rows:
            torch.addcmul(shift, x, g, out=y)
        elif self.is_long_to_widen or (is_rows and not is_wide):
            batch_norm.scaled(x, g, torch.zeros_like(g) if shift is None else shift, y)
        elif is_wide and shift is not None:
            torch.mul(x, g, out=y).add_(shift)
        else:
            block = self._block_memory()
            for part in self._parts():
                wide = _product(x[part], g[part[0]], block)
                y[part] = wide if shift is None else wide.add_(shift[part[0]])

    def scaled_onto(self, g: Tensor, residual: Self, out: Self) -> None:
        """out = x * g + residual, g of (N, C) in float32, rounded once to x's dtype."""
        x, y = self.data, out.data
        g = g.reshape(len(x), 1, x.shape[2])
        if x.dtype == self.acc:
            torch.addcmul(residual.data, x, g, out=y)
        else:
            block = self._block_memory(2)
            for part in self._parts():
                wide = _part_of(block, x[part].numel(), x[part].shape).copy_(residual.data[part])
                y[part] = wide.add_(_product(x[part], g[part[0]], block))

    def _parts(self) -> Iterator[Part]:
        count, positions, channels = self.data.shape
        step = max(1, BLOCK // (positions * channels))
        span = max(1, min(positions, BLOCK // channels))
        for i in range(0, count, step):
            for s in range(0, positions, span):
                yield slice(i, i + step), slice(s, s + span)

    def _block_memory(self, blocks: int = 1) -> Tensor:
        size = min(self.data.numel(), max(BLOCK, self.data.shape[2]))
        return self.data.new_empty(blocks * size, dtype=self.acc)


def _product(x: Tensor, d: Tensor | None, memory: Tensor) -> Tensor:
    """x, or x * d, in the dtype and at the start of `memory`."""
    block = _part_of(memory, 0, x.shape)
    if d is None:
        return block.copy_(x)
    if d.dtype == block.dtype:
        return torch.mul(x, d, out=block) if x.dtype == d.dtype else block.copy_(x).mul_(d)
    # Widen both here: a product of mixed dtypes would widen each block in fresh memory.
    wide = _part_of(memory, x.numel(), d.shape)
    return block.copy_(x).mul_(wide.copy_(d))


def _part_of(memory: Tensor, start: int, shape: torch.Size) -> Tensor:
    return memory.as_strided((shape.numel(),), (1,), start).view(shape)
