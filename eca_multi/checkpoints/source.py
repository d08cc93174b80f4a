"""An open file of tensors: a tensor's place and shape are known first, and its values are read when they are needed."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from operator import mul
from typing import Any, BinaryIO

import numpy as np

from .errors import CheckpointError
from .stored import BFLOAT16, Stored

_MOST_AXES = 32  # no network has more than four; NumPy has a limit of its own
_WINDOW = 1 << 16  # bytes of a stream's buffer, and the longest line
_SPREAD = 64  # a tensor that is a part of a larger one may be spread over so many times its own bytes


class Source:
    """A file that is open for reading, unbuffered.

    Args:
        name: Path, for messages.
        file, size: The file, and its bytes.
        mmap: Whether tensors are mapped into memory instead of read.
    """

    def __init__(self, name: str, file: BinaryIO, size: int, *, mmap: bool = False) -> None:
        self.name, self.file, self.size = name, file, size
        self._mapped = np.memmap(file, np.uint8, "r") if mmap and size else None

    def read(self, start: int, count: int) -> bytes:
        """Return `count` bytes, or fewer at the end of the file."""
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
        fills: bool = False,
    ) -> Stored:
        """Return the tensor that lies between two places of the file, in bytes.

        Args:
            dtype: NumPy's name with the byte order, "<f4", or BFLOAT16.
            shape: Extents.
            start, end: Place of the first number, and a place behind the last one.
            strides: In numbers; None for a contiguous tensor.
            fills: Whether the tensor must take all bytes between the two places.

        Raises:
            ValueError: If the tensor does not lie between the places or fill them, or two of its numbers overlap.
        """
        bfloat16 = dtype == BFLOAT16
        raw = np.dtype("<u2" if bfloat16 else dtype)
        axes = _extents(shape)
        steps = _contiguous(axes) if strides is None else _steps(axes, strides)
        span = 1 + sum((extent - 1) * step for extent, step in zip(axes, steps, strict=True)) if 0 not in axes else 0
        if type(start) is not int or not 0 <= start <= end <= self.size or start + span * raw.itemsize > end:
            raise ValueError(f"a tensor of shape {axes} lies outside of the file")
        if fills and span * raw.itemsize != end - start:
            raise ValueError(f"a tensor of shape {axes} in {end - start} bytes")
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


@contextmanager
def open_source(path: str | os.PathLike[str], mmap: bool = False) -> Iterator[Source]:
    """Open a file of tensors.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If the path names no regular file, or the file was written to while it was open.
    """
    name = os.fspath(path)
    if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would wait, and a device has no end
        if os.path.isdir(path):
            raise IsADirectoryError(21, "Is a directory", name)
        raise CheckpointError(f"path must name a file. Received: {name!r}, a pipe or a device. Copy it to a file.")
    with open(path, "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        yield Source(name, file, before.st_size, mmap=mmap)
        after = os.fstat(file.fileno())
        if not mmap and (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise CheckpointError(
                f"the checkpoint must stay as it is while it is read. Received: {name!r}, which was written to "
                "meanwhile. Read it again when nothing writes to it."
            )


class Stream:
    """The bytes of a file between `start` and `end`, for a parser that reads them from front to back.

    Memory is never allocated for more bytes than the file has.
    """

    def __init__(self, source: Source, start: int, end: int) -> None:
        self._source, self._end = source, end
        self._start, self._buffer, self._place = start, b"", 0

    def tell(self) -> int:
        return self._start + self._place

    def read(self, count: int) -> bytes:
        self._fill(count)
        data = self._buffer[self._place : self._place + count]
        self._place += len(data)
        return data

    def readline(self) -> bytes:
        self._fill(_WINDOW)
        end = self._buffer.find(b"\n", self._place)
        return self.read((end + 1 if end >= 0 else len(self._buffer)) - self._place)

    def skip(self, count: int) -> None:
        self._place += count

    def _fill(self, count: int) -> None:
        """Read the next `count` bytes into the buffer, or as many as the file has."""
        if self._place + count > len(self._buffer):
            self._start, self._place = self.tell(), 0
            wanted = max(min(max(count, _WINDOW), self._end - self._start), 0)
            self._buffer = self._source.read(self._start, wanted)


def _extents(shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(shape, list | tuple) or len(shape) > _MOST_AXES:
        raise ValueError("a tensor without a shape")
    if not all(type(extent) is int and 0 <= extent < 1 << 62 for extent in shape):
        raise ValueError("a tensor whose shape is no list of extents")
    return tuple(shape)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps = accumulate((max(extent, 1) for extent in reversed(shape)), mul, initial=1)
    return tuple(steps)[: len(shape)][::-1]


def _steps(shape: tuple[int, ...], strides: Sequence[int]) -> tuple[int, ...]:
    """Check that no two numbers of a tensor share a place: such a tensor could be larger than the file."""
    if not isinstance(strides, list | tuple) or len(strides) != len(shape):
        raise ValueError("a tensor whose strides are not as many as its axes")
    if not all(type(step) is int and 0 <= step < 1 << 62 for step in strides):
        raise ValueError("a tensor whose strides are no steps forward")
    behind = 1
    for step, extent in sorted((step, extent) for step, extent in zip(strides, shape, strict=True) if extent > 1):
        if step < behind:
            raise ValueError(f"a tensor of shape {shape} that is expanded or overlaps itself (strides {strides})")
        behind = step * (extent - 1) + behind
    # The stride of an axis with one position has no meaning.
    plain = _contiguous(shape)
    return tuple(step if extent > 1 else plain[i] for i, (step, extent) in enumerate(zip(strides, shape, strict=True)))
