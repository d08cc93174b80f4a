"""A tensor in a file, before its values are read: its dtype and shape, and how much of them a file may declare."""

import math
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# The dtypes that files of tensors hold, by their common name: how NumPy writes them, little-endian.
BFLOAT16 = "bfloat16"  # NumPy has none: `Source.tensor` widens its numbers to float32, which is exact
DTYPES = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": BFLOAT16, "bool": "?",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1",
    "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "u1",
}  # fmt: skip
_MOST_TENSORS = 50_000  # the largest network has 1,008, and an optimizer two or three for each of them
# The bytes of all tensors are at most FACTOR times those of the file, plus MORE. In a plain file, bfloat16 is widened
# to twice its size, and two tensors may share a storage. A single compressed tensor of zeros keeps a thousandth of its
# bytes; a whole network keeps more.
_PLAIN_FACTOR, _PLAIN_MORE = 4, 1 << 20
_PACKED_FACTOR, _PACKED_MORE = 100, 64 << 20


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: shape and dtype of the array that `load` reads from the file, again at each call."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    def viewed(self, view: Callable[[np.ndarray], np.ndarray]) -> "Stored":
        """Return the tensor through a view: transposed, or with another shape."""
        shape = view(np.broadcast_to(np.float32(0), self.shape)).shape
        load = self.load
        return replace(self, shape=shape, load=lambda: view(load()))


def check_total(tensors: Mapping[str, Stored], size: int, *, packed: bool = False) -> None:
    """Refuse tensors with more bytes than a file of `size` bytes can hold, compressed if `packed`, before any is read.

    Raises:
        ValueError: With the number of bytes.
    """
    check_count(tensors)
    factor, more = (_PACKED_FACTOR, _PACKED_MORE) if packed else (_PLAIN_FACTOR, _PLAIN_MORE)
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > factor * size + more:
        raise ValueError(f"{size} bytes that claim to hold tensors of {total} bytes")


def check_count(tensors: Sized) -> None:
    """Refuse, by a ValueError, more tensors than any network has, before an object is made for each."""
    if len(tensors) > _MOST_TENSORS:
        raise ValueError(f"{len(tensors)} tensors, more than any network has")
