"""Read a file of torch.save: the archive, and the format before torch 1.6. Nothing in the file is run."""

from typing import Any

import numpy as np

from eca_multi.checkpoints.archive import open_archive, place_of
from eca_multi.checkpoints.errors import CheckpointError
from eca_multi.checkpoints.source import Source, Stream
from eca_multi.checkpoints.stored import Stored

from .pickle import read_pickle
from .values import CodeError, Other, Pickled

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class TorchFile:
    """The content of a file, and for each storage's key its first byte and the byte behind its last."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.content: Any = None
        self.places: dict[Any, tuple[int, int]] = {}

    def tensor(self, name: str, value: Pickled | Other) -> Stored:
        """Return a tensor; raise ValueError if it is not stored as numbers, or does not lie in its storage."""
        if isinstance(value, Other):
            raise ValueError(f"{name!r} is {value.what}")
        storage, dtype = value.storage, value.dtype or value.storage.dtype
        if not dtype or type(value.offset) is not int or type(storage.view) is not int:
            raise ValueError(f"{name!r} is complex, quantised or of another dtype without plain real numbers")
        start, end = self.places[storage.key]
        itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
        first = start + (storage.view + value.offset) * itemsize
        if storage.view + value.offset < 0:
            raise ValueError(f"{name!r} begins before its storage")
        return self.source.tensor(dtype, value.shape, first, end, value.strides)


def read_file(source: Source) -> TorchFile:
    """Read the content of a file, and the places of its tensors.

    Raises:
        CheckpointError: If the content would run code.
        Exception: Whatever the parsers raise for a broken file.
    """
    file = TorchFile(source)
    try:
        if source.read(0, 4) == b"PK\x03\x04":
            _read_archive(file)
        else:
            _read_stream(file)
    except CodeError as error:
        raise CheckpointError(
            f"path must name a file of tensors. Received: {source.name!r}, which would call {error}. "
            "Nothing of it was run. Save the state dict instead of the model, or take a .safetensors file."
        ) from error
    return file


def _read_archive(file: TorchFile) -> None:
    source = file.source
    with open_archive(source) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = min((name for name in entries if name.endswith("/data.pkl")), default="").removesuffix("data.pkl")
        if not root:
            raise ValueError("an archive without data.pkl")
        # Every member's checksum is compared, so that a changed byte is found whichever tensor has it.
        places = {name: place_of(source, archive, entry) for name, entry in entries.items()}
        if f"{root}byteorder" in places:
            start, end = places[f"{root}byteorder"]
            if source.read(start, min(end - start, 16)) != b"little":
                raise ValueError("written on a machine with another order of bytes")
        folder = f"{root}data/"
        file.places = {name.removeprefix(folder): place for name, place in places.items() if name.startswith(folder)}
        file.content = read_pickle(Stream(source, *places[f"{root}data.pkl"]))


def _read_stream(file: TorchFile) -> None:
    """Read the format before torch 1.6: pickles, then each storage behind the count of its numbers."""
    source = file.source
    stream = Stream(source, 0, source.size)
    if read_pickle(stream) != _MAGIC:
        raise ValueError("not a file of torch's")
    if read_pickle(stream) != _PROTOCOL:
        raise ValueError("of another protocol than torch's files have")
    machine = read_pickle(stream)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("written on a machine with another order of bytes")
    itemsizes: dict[Any, int] = {}
    file.content = read_pickle(stream, itemsizes)
    keys = read_pickle(stream)
    place = stream.tell()
    for key in keys:
        start = place + 8
        place = start + int.from_bytes(source.read(place, 8), "little") * itemsizes[key]
        if place > source.size:
            raise ValueError("storages that end behind the end of the file")
        file.places[key] = (start, place)
