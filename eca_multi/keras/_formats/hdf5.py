"""Read HDF5 as Keras writes it: groups, and the place of each dataset's numbers.

HDF5's own library is made for files that one trusts: some broken files end the process, run forever or take gigabytes.
This reader takes what h5py writes by default (superblock 0, groups of symbol tables, contiguous data) and nothing else.
The numbers in the comments are the sections of the HDF5 File Format Specification, version 3.0.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from eca_multi.checkpoints.source import Source

_MOST_STEPS = 200_000  # the largest network takes 30,000
_UNDEFINED = 2**64 - 1
_FLOATS = {2: "f2", 4: "f4", 8: "f8"}
_INTEGERS = {1: "1", 2: "2", 4: "4", 8: "8"}
# Kinds of messages in an object's header (IV.A.2)
_DATASPACE, _DATATYPE, _EXTERNAL, _LAYOUT, _ATTRIBUTE, _CONTINUATION, _SYMBOLS = 0x1, 0x3, 0x7, 0x8, 0xC, 0x10, 0x11


@dataclass(frozen=True)
class Dataset:
    """A contiguous array; `dtype` is NumPy's, or "opaque" for two bytes, the storage of bfloat16."""

    shape: tuple[int, ...]
    dtype: str
    place: int
    nbytes: int


@dataclass
class Node:
    """A group or a dataset: its path from the root, and the messages of its header: kind, place and size."""

    path: str
    messages: list[tuple[int, int, int]] = field(default_factory=list)


class File:
    """An HDF5 file that lies between two places of `source`.

    Every method raises ValueError or struct.error for a part that is broken or that h5py would write otherwise.
    """

    def __init__(self, source: Source, start: int, end: int) -> None:
        self.source, self.start, self.end = source, start, end
        self.steps = 0
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}
        head = self._read(0, 96)  # II.A
        if head[8] != 0 or head[13:15] != b"\x08\x08":
            raise ValueError("HDF5 in another version than h5py writes by default")
        base, _, length, _, _, root = struct.unpack_from("<6Q", head, 24)
        if base != 0 or length > end - start:
            raise ValueError(f"{end - start} bytes of HDF5's {length}")
        self.root = self.node(root, "")

    # --- groups

    def children(self, node: Node) -> dict[str, Node]:
        """Return the members of a group, by name; a member must not be a link."""
        tables = [place for kind, place, _ in node.messages if kind == _SYMBOLS]
        if len(tables) != 1:
            raise ValueError(f"{node.path or '/'} is no group of its own")
        tree, heap = struct.unpack("<QQ", self._read(tables[0], 16))
        signature, size, _, names = struct.unpack("<8sQQQ", self._read(heap, 32))  # III.D
        if signature != b"HEAP\0\0\0\0" or size > self.end - self.start:
            raise ValueError("a broken heap of names")
        texts = self._read(names, size)
        children: dict[str, Node] = {}
        for place, header, cache in self._symbols(tree, 256):
            name = texts[place : texts.index(b"\0", place)].decode()
            if cache == 2 or header == _UNDEFINED:
                raise ValueError(f"{node.path}/{name} is no dataset of its own")
            if not name or name in children:
                raise ValueError(f"{node.path} holds {name!r} twice")
            children[name] = self.node(header, f"{node.path}/{name}")
        return children

    def _symbols(self, place: int, above: int) -> Iterator[tuple[int, int, int]]:
        """Yield the entries of a tree (III.A.1): the place of a name, that of an object's header, the cache's kind."""
        self._step()
        signature, kind, level, count = struct.unpack("<4sBBH", self._read(place, 8))
        if signature != b"TREE" or kind != 0 or level >= above:
            raise ValueError("a broken tree of names")
        for child in struct.unpack(f"<{'8xQ' * count}", self._read(place + 24, 16 * count)):
            if level:
                yield from self._symbols(child, level)
                continue
            signature, _, length = struct.unpack("<4sHH", self._read(child, 8))  # III.B
            if signature != b"SNOD":
                raise ValueError("a broken table of names")
            for i in range(length):
                self._step()
                yield struct.unpack("<QQI", self._read(child + 8 + 40 * i, 20))

    def node(self, place: int, path: str) -> Node:
        """Read an object's header (IV.A.1.a): its messages, and those in its continuation blocks."""
        version, _, count, _, size = struct.unpack("<BBHII", self._read(place, 12))
        if version != 1:
            raise ValueError(f"{path or '/'} has a header of another version than h5py writes by default")
        node, blocks = Node(path), [(place + 16, size)]
        for block, length in blocks:
            here, stop = block, block + length
            while here + 8 <= stop and len(node.messages) < count:
                self._step()
                kind, size, flags = struct.unpack("<HHB", self._read(here, 5))
                if flags & 2:
                    raise ValueError(f"{path} shares a part of its header")
                node.messages.append((kind, here + 8, size))
                if kind == _CONTINUATION:
                    further, more = self._unpack("<QQ", here + 8)
                    blocks.append((further, more))
                here += 8 + size
        return node

    # --- attributes

    def attribute(self, node: Node, wanted: str) -> str | None:
        """Return the text of an attribute of a group or dataset; None if there is no such attribute."""
        for kind, place, size in node.messages:
            if kind != _ATTRIBUTE:
                continue
            data = self._read(place, size)  # IV.A.2.m
            version, _, name, datatype, dataspace = struct.unpack_from("<BBHHH", data)
            step = 8 if version == 1 else 1  # version 1 pads each part to 8 bytes
            at = 9 if version == 3 else 8
            if data[at : at + name].rstrip(b"\0") != wanted.encode():
                continue
            at += -(-name // step) * step
            kind_of_text = data[at] & 15
            at += -(-datatype // step) * step + -(-dataspace // step) * step
            return self._text(data[at:], kind_of_text, node.path, wanted)
        return None

    def _text(self, data: bytes, kind: int, path: str, name: str) -> str:
        if kind == 3:  # text of a fixed length
            return data.rstrip(b"\0").decode()
        if kind != 9:
            raise ValueError(f"the attribute {name} of {path or '/'} must be text")
        length, heap, index = struct.unpack("<IQI", data[:16])
        place, size = self._heap(heap)[index]
        return self._read(place, min(length, size)).decode()

    def _heap(self, place: int) -> dict[int, tuple[int, int]]:
        """Return the place and size of each object of a global heap (III.E), by number."""
        if place not in self._heaps:
            signature, size = self._unpack("<8sQ", place)
            if signature != b"GCOL\1\0\0\0" or size > self.end - self.start:
                raise ValueError("a broken heap of texts")
            objects: dict[int, tuple[int, int]] = {}
            at, stop = place + 16, place + size
            while at + 16 <= stop:
                self._step()
                index, length = self._unpack("<H6xQ", at)
                if index == 0:
                    break
                objects[index] = (at + 16, length)
                at += 16 + -(-length // 8) * 8
            self._heaps[place] = objects
        return self._heaps[place]

    # --- datasets

    def dataset(self, node: Node) -> Dataset:
        """Return shape, dtype and place of a contiguous array of numbers."""
        parts = {kind: (place, size) for kind, place, size in node.messages}
        if not {_DATASPACE, _DATATYPE, _LAYOUT} <= set(parts):
            raise ValueError(f"{node.path} is no dataset of its own")
        if _EXTERNAL in parts:
            raise ValueError(f"{node.path} lies in another file")
        shape, dtype = self._shape(parts[_DATASPACE][0]), self._dtype(parts[_DATATYPE][0], node.path)
        place = parts[_LAYOUT][0]
        version, layout = self._unpack("<BB", place)  # IV.A.2.i
        if version not in (3, 4) or layout not in (0, 1):
            raise ValueError(f"{node.path} is not stored in one piece, as Keras stores it")
        if layout == 0:
            return Dataset(shape, dtype, self.start + place + 4, self._unpack("<H", place + 2)[0])
        at, size = self._unpack("<QQ", place + 2)
        return Dataset(shape, dtype, *((self.start + at, size) if at != _UNDEFINED else (self.start, 0)))

    def _shape(self, place: int) -> tuple[int, ...]:
        version, rank = self._unpack("<BB", place)  # IV.A.2.b
        if version not in (1, 2):
            raise ValueError("a shape in another version than h5py writes")
        return self._unpack(f"<{rank}Q", place + (8 if version == 1 else 4))

    def _dtype(self, place: int, path: str) -> str:
        kind, bits, size = self._unpack("<BB2xI", place)  # IV.A.2.d
        order = "<>"[bits & 1]
        if kind & 15 == 1 and size in _FLOATS:
            return order + _FLOATS[size]
        if kind & 15 == 0 and size in _INTEGERS:
            return f"{order}{'i' if bits & 8 else 'u'}{_INTEGERS[size]}"
        if kind & 15 == 5 and size == 2:
            return "opaque"
        raise ValueError(f"{path} is no array of numbers")

    # --- bytes

    def _unpack(self, form: str, place: int) -> tuple[Any, ...]:
        return struct.unpack(form, self._read(place, struct.calcsize(form)))

    def _read(self, place: int, count: int) -> bytes:
        return self.source.read(self.start + place, min(count, self.end - self.start - place))

    def _step(self) -> None:
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise ValueError("more parts than any network has, or parts that hold each other")
