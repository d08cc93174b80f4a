"""A file of tensors that is open: each tensor is known by its place and shape first, and is read when it is wanted."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from .identify import CheckpointError

_MOST_AXES = 8  # no network has more than four
_MOST_TENSORS = 50_000  # the largest network has 1,008, and an optimizer two or three for each of them
# A file may declare tensors of so many bytes: bfloat16 is widened to twice its size, and two tensors may share a
# storage. Where it is compressed, a thousandth of a network's bytes may be left, of zeros, but not of a whole network.
_PLAIN, _PLAIN_MORE = 4, 1 << 20
_PACKED, _PACKED_MORE = 100, 64 << 20
_WINDOW = 1 << 16  # bytes that a stream holds, and the longest line
_SPREAD = 64  # so many times its own bytes may a tensor be spread over that is a part of a larger one


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: what it is, and how its values are read.

    Args:
        shape, dtype: Of the array that `load` returns.
        load: Reads the values; each call reads them again.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        size = 1
        for extent in self.shape:
            size *= extent
        return size

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    def viewed(self, view: Callable[[np.ndarray], np.ndarray]) -> "Stored":
        """Return the tensor as a view of it: transposed, or of another shape."""
        shape = view(np.broadcast_to(np.float32(0), self.shape)).shape
        load = self.load
        return replace(self, shape=shape, load=lambda: view(load()))


class Source:
    """A file that is open for reading.

    Args:
        name: As it was given.
        file: Unbuffered.
        mmap: Whether tensors are mapped into memory instead of read.
    """

    def __init__(self, name: str, file: BinaryIO, mmap: bool) -> None:
        self.name, self.file = name, file
        self.size = os.fstat(file.fileno()).st_size
        self._mapped = np.memmap(file, np.uint8, "r") if mmap and self.size else None

    def read(self, start: int, count: int) -> bytes:
        """Return that many bytes, or what there is of them."""
        self.file.seek(start)
        parts = []
        left = max(min(count, self.size - start), 0)
        while left and (part := self.file.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def tensor(
        self,
        dtype: str,
        shape: Sequence[int],
        start: int,
        end: int,
        strides: Sequence[int] | None = None,
        *,
        bfloat16: bool = False,
    ) -> Stored:
        """Return a tensor that lies between two places of the file.

        Args:
            dtype: As NumPy writes it, with its byte order.
            shape: Axes.
            start: Of its first number.
            end: Behind which nothing of it may lie.
            strides: In numbers; None where they lie one after another.
            bfloat16: Whether the numbers are the upper halves of float32.

        Raises:
            ValueError: If it does not lie there, or numbers of it overlap.
        """
        raw = np.dtype(dtype)
        axes = _extents(shape)
        steps = _contiguous(axes) if strides is None else _steps(axes, strides)
        span = 1 + sum((extent - 1) * step for extent, step in zip(axes, steps, strict=True)) if 0 not in axes else 0
        if type(start) is not int or not 0 <= start <= end <= self.size or start + span * raw.itemsize > end:
            raise ValueError(f"a tensor of shape {axes} lies outside of the file")
        if span > _SPREAD * np.prod(axes, dtype=object):
            raise ValueError(f"a tensor of shape {axes} that is spread over {span} numbers")

        def load() -> np.ndarray:
            array = self._numbers(raw, start, span)
            if steps != _contiguous(axes):
                array = np.lib.stride_tricks.as_strided(array, axes, [step * raw.itemsize for step in steps])
                array = array if self._mapped is not None else np.ascontiguousarray(array)
            array = array.reshape(axes)
            if not raw.isnative:
                return array.astype(raw.newbyteorder("="))
            return (array.astype("<u4") << 16).view("<f4") if bfloat16 else array

        return Stored(axes, np.dtype("<f4") if bfloat16 else raw.newbyteorder("="), load)

    def _numbers(self, dtype: np.dtype[Any], start: int, count: int) -> np.ndarray:
        if self._mapped is not None:
            return self._mapped[start : start + count * dtype.itemsize].view(dtype)
        array = np.empty(count, dtype)
        left = array.view(np.uint8).data
        self.file.seek(start)
        while left:
            got = self.file.readinto(left)  # type: ignore[attr-defined]  # BinaryIO lacks it, a raw file has it
            if not got:
                raise CheckpointError(
                    f"the checkpoint must stay as it is while it is read. Received: {self.name!r}, which was cut off "
                    "meanwhile. Read it again when nothing writes to it."
                )
            left = left[got:]
        return array


class Stream:
    """A file as parsers read it: one small piece after another, and never more at once than there is."""

    def __init__(self, source: Source, start: int, end: int) -> None:
        self._source, self._end = source, end
        self._start, self._buffer, self._place = start, b"", 0

    def tell(self) -> int:
        return self._start + self._place

    def read(self, count: int) -> bytes:
        self._hold(count)
        data = self._buffer[self._place : self._place + count]
        self._place += len(data)
        return data

    def readline(self) -> bytes:
        self._hold(_WINDOW)
        end = self._buffer.find(b"\n", self._place)
        return self.read((end + 1 if end >= 0 else len(self._buffer)) - self._place)

    def skip(self, count: int) -> None:
        self._place += count

    def _hold(self, count: int) -> None:
        """Have the next bytes in the buffer, as far as the file goes."""
        if self._place + count > len(self._buffer):
            self._start, self._place = self.tell(), 0
            wanted = max(min(max(count, _WINDOW), self._end - self._start), 0)
            self._buffer = self._source.read(self._start, wanted)


@contextmanager
def open_source(path: str | os.PathLike[str], mmap: bool = False) -> Iterator[Source]:
    """Open a file of tensors.

    Raises:
        OSError: If it cannot be read.
        CheckpointError: If it is no regular file, or was written to while it was open.
    """
    name = os.fspath(path)
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for, a device has no end
        if os.path.isdir(path):
            raise IsADirectoryError(21, "Is a directory", name)
        raise CheckpointError(f"path must name a file. Received: {name!r}, a pipe or a device. Copy it to a file.")
    with open(path, "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        yield Source(name, file, mmap)
        after = os.fstat(file.fileno())
        if not mmap and (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise CheckpointError(
                f"the checkpoint must stay as it is while it is read. Received: {name!r}, which was written to "
                "meanwhile. Read it again when nothing writes to it."
            )


def check_total(tensors: Mapping[str, Stored], size: int, *, packed: bool = False) -> None:
    """Refuse tensors that are more than a file of that size can hold, before any is read.

    Raises:
        ValueError: With the number of bytes.
    """
    check_count(tensors)
    factor, more = (_PACKED, _PACKED_MORE) if packed else (_PLAIN, _PLAIN_MORE)
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > factor * size + more:
        raise ValueError(f"{size} bytes that claim to hold tensors of {total} bytes")


def check_count(tensors: Sized) -> None:
    """Refuse more tensors than any network has, before anything is made of each.

    Raises:
        ValueError: With their number.
    """
    if len(tensors) > _MOST_TENSORS:
        raise ValueError(f"{len(tensors)} tensors, more than any network has")


def _extents(shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(shape, list | tuple) or len(shape) > _MOST_AXES:
        raise ValueError("a tensor without a shape")
    if not all(type(extent) is int and 0 <= extent < 1 << 62 for extent in shape):
        raise ValueError("a tensor whose shape is no list of extents")
    return tuple(shape)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps, step = [], 1
    for extent in reversed(shape):
        steps.append(step)
        step *= max(extent, 1)
    return tuple(reversed(steps))


def _steps(shape: tuple[int, ...], strides: Sequence[int]) -> tuple[int, ...]:
    """Check that no two numbers of a tensor lie at one place: it would be larger than what is stored of it."""
    if not isinstance(strides, list | tuple) or len(strides) != len(shape):
        raise ValueError("a tensor whose strides are not as many as its axes")
    if not all(type(step) is int and 0 <= step < 1 << 62 for step in strides):
        raise ValueError("a tensor whose strides are no steps forward")
    behind = 1
    for step, extent in sorted((step, extent) for step, extent in zip(strides, shape, strict=True) if extent > 1):
        if step < behind:
            raise ValueError(f"a tensor of shape {shape} that is expanded or overlaps itself (strides {strides})")
        behind = step * (extent - 1) + behind
    # Of an axis of one position the step says nothing.
    plain = _contiguous(shape)
    return tuple(step if extent > 1 else plain[i] for i, (step, extent) in enumerate(zip(strides, shape, strict=True)))
