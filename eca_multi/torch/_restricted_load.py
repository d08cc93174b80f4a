"""Files of torch.save, read without running anything that is in them: the archive, and the format before torch 1.6."""

from typing import Any

import numpy as np

from eca_multi._parsing import parsing
from eca_multi.checkpoints import CheckpointError, Source, Stored, Stream, open_archive, place_of

from ._pickled import CodeError, Other, Pickled, read_pickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class TorchFile:
    """What is in a file, and where its storages are.

    Attributes:
        content: As `read_pickle` returns it.
        places: By a storage's key, its first byte and the one behind its last.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.content: Any = None
        self.places: dict[Any, tuple[int, int]] = {}

    def tensor(self, name: str, value: Pickled | Other) -> Stored:
        """Return a tensor of the content.

        Raises:
            ValueError: If it is not stored as numbers, or does not lie in its storage.
        """
        if isinstance(value, Other):
            raise ValueError(f"{name!r} is {value.what}")
        storage, kind = value.storage, value.dtype or value.storage.dtype
        if not kind or type(value.offset) is not int or type(storage.view) is not int:
            raise ValueError(f"{name!r} is complex, quantised or of another dtype without plain real numbers")
        dtype = "<u2" if kind == "bfloat16" else kind
        start, end = self.places[storage.key]
        first = start + (storage.view + value.offset) * np.dtype(dtype).itemsize
        if storage.view + value.offset < 0:
            raise ValueError(f"{name!r} begins before its storage")
        return self.source.tensor(dtype, value.shape, first, end, value.strides, bfloat16=kind == "bfloat16")


def open_file(source: Source) -> TorchFile:
    """Read what a file of torch holds; of its tensors, where they are.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete file of torch's, or holds what would run code.
    """
    with parsing(lambda reason: incomplete(source.name, reason), CheckpointError):
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
        order = entries.get(f"{root}byteorder")
        if order is not None and source.read(*_span(place_of(source, archive, order))) != b"little":
            raise ValueError("written on a machine with another order of bytes")
        start = f"{root}data/"
        for name, entry in entries.items():  # all, so that a byte that changed is found whichever tensor has it
            place = place_of(source, archive, entry)
            if name.startswith(start):
                file.places[name.removeprefix(start)] = place
        file.content = read_pickle(Stream(source, *place_of(source, archive, entries[f"{root}data.pkl"])))


def _span(place: tuple[int, int]) -> tuple[int, int]:
    return place[0], min(place[1] - place[0], 16)


def _read_stream(file: TorchFile) -> None:
    """The format before torch 1.6: pickles, and behind them each storage with the number of its numbers before it."""
    source = file.source
    stream = Stream(source, 0, source.size)
    if read_pickle(stream) != _MAGIC:
        raise ValueError("not a file of torch's")
    if read_pickle(stream) != _PROTOCOL:
        raise ValueError("of another protocol than torch's files have")
    machine = read_pickle(stream)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("written on a machine with another order of bytes")
    storages: dict[Any, int] = {}
    file.content = read_pickle(stream, storages)
    keys = read_pickle(stream)
    place = stream.tell()
    for key in keys:
        start = place + 8
        place = start + int.from_bytes(source.read(place, 8), "little") * storages[key]
        if place > source.size:
            raise ValueError("storages that end behind the end of the file")
        file.places[key] = (start, place)


def state_dict_is(value: Any) -> bool:
    """Whether something in a file is a state dict: tensors by name, and nothing else."""
    return isinstance(value, dict) and bool(value) and all(_is_entry(*item) for item in value.items())


def _is_entry(name: Any, value: Any) -> bool:
    special = isinstance(value, Other) and value.what.startswith("torch._utils.")  # sparse, or without values
    return isinstance(name, str) and (special or isinstance(value, Pickled))


def incomplete(name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"path must name a complete file that torch.save wrote. Received: {name!r} ({reason}). "
        "Copy the file again; a .pth.tar is not a tar archive and must not be unpacked."
    )
