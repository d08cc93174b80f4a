"""Read msgpack as Flax writes it: of an array only the place of its numbers. And write it, one array at a time.

No memory is allocated for a length in the file before the file is known to have so many bytes.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it has none
from flax import serialization

from eca_multi.checkpoints.source import Source, Stream
from eca_multi.checkpoints.stored import DTYPES, Stored

_MOST_VALUES = 200_000  # the largest network with its optimizer has 5,000
_DEEPEST = 32  # a TrainState is 8 deep
_ARRAY, _SCALAR = 1, 3  # Flax's own kinds of extension
_PLAIN = {0xC0: None, 0xC2: False, 0xC3: True}
# For each first byte, the number of bytes of the length (of text, bytes, an extension, a list, a map) or of the number.
_LENGTHS = {
    0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4,
}  # fmt: skip
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_NUMBERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


@dataclass(frozen=True)
class Odd:
    """A value that is no array of NumPy's numbers; `what` says what it is."""

    what: str


def read_tree(source: Source) -> Any:
    """Return the one value that an open file holds."""
    reader = Reader(source)
    tree = reader.value()
    if reader.stream.tell() != source.size:
        raise ValueError("more or fewer bytes than there are weights")
    return tree


def pack(tree: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the bytes of `flax.serialization.to_bytes` for a tree whose leaves are texts and functions of arrays."""
    packer = msgpack.Packer()
    yield packer.pack_map_header(len(tree))
    for name, inner in tree.items():
        yield packer.pack(name)
        if isinstance(inner, Mapping):
            yield from pack(inner)
        elif callable(inner):
            yield serialization.msgpack_serialize(inner())
        else:
            yield packer.pack(inner)


class Reader:
    """Reads the values of an open file, one after another."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.stream = Stream(source, 0, source.size)
        self.values = 0

    def value(self, depth: int = 0) -> Any:
        """Return the next value: a dictionary, list, text or number; an array as `Stored`, any other value as `Odd`."""
        self.values += 1
        if depth > _DEEPEST or self.values > _MOST_VALUES:
            raise ValueError("nested more deeply, or of more values, than any network is")
        code = self.number(1)
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code in _PLAIN:
            return _PLAIN[code]
        if code in _NUMBERS:
            return self.number(_NUMBERS[code], signed=code >= 0xD0)
        if code in (0xCA, 0xCB):
            return self.read_float(4 if code == 0xCA else 8)
        kind, length = self.length(code)
        return kind(self, length, depth + 1)

    def length(self, code: int) -> tuple[Callable[..., Any], int]:
        """Return the reader for the kind of value that a first byte announces, and its length."""
        if code < 0x90:
            return Reader.read_map, code - 0x80
        if code < 0xA0:
            return Reader.read_list, code - 0x90
        if code < 0xC0:
            return Reader.read_text, code - 0xA0
        if code in _FIXED_EXTENSIONS:
            return Reader.read_extension, _FIXED_EXTENSIONS[code]
        if code not in _LENGTHS:
            raise ValueError(f"the byte {code:#x}, which msgpack does not have")
        length = self.number(_LENGTHS[code])
        kinds = {
            0xC4: Reader.read_bytes,
            0xC7: Reader.read_extension,
            0xD9: Reader.read_text,
            0xDC: Reader.read_list,
            0xDE: Reader.read_map,
        }
        return kinds[max(first for first in kinds if first <= code)], length

    def read_map(self, length: int, depth: int) -> dict[Any, Any]:
        result = {}
        for _ in range(length):
            key = self.value(depth)
            if not isinstance(key, str | int | bytes):
                raise ValueError("a map whose keys are neither text nor whole numbers")
            result[key] = self.value(depth)
        return result

    def read_list(self, length: int, depth: int) -> list[Any]:
        return [self.value(depth) for _ in range(length)]

    def read_text(self, length: int, _: int) -> str:
        return self.take(length).decode()

    def read_bytes(self, length: int, _: int) -> bytes:
        return self.take(length)

    def read_extension(self, length: int, depth: int) -> Stored | Odd:
        """Find the numbers of an array, which is a list of its shape, the name of its dtype, and bytes."""
        kind = self.number(1)
        end = self.stream.tell() + length
        if kind not in (_ARRAY, _SCALAR):
            self.stream.skip(length)
            return Odd(f"an extension of kind {kind}")
        if self.number(1) != 0x93:
            raise ValueError("an array that is not a shape, a dtype and bytes")
        shape, name = self.value(depth), self.value(depth)
        name = name.decode() if isinstance(name, bytes) else name
        code = self.number(1)
        if not 0xC4 <= code <= 0xC6:
            raise ValueError("an array without bytes")
        count = self.number(_LENGTHS[code])
        start = self.stream.tell()
        if start + count != end:
            raise ValueError("an array whose bytes are not as many as it says")
        self.stream.skip(count)
        if name not in DTYPES:
            return Odd(f"an array of dtype {name}")
        return self.source.tensor(DTYPES[name], shape, start, end, fills=True)

    def number(self, length: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(length), "big", signed=signed)

    def read_float(self, length: int) -> float:
        return struct.unpack(">f" if length == 4 else ">d", self.take(length))[0]

    def take(self, length: int) -> bytes:
        data = self.stream.read(length)
        if len(data) < length:
            raise ValueError("it ends in the middle")
        return data
