"""Detect from a file's content, not from its name, which framework wrote it."""

import os
import struct
import zipfile
from pathlib import Path
from typing import Any

from eca_multi._parsing import parse_json, parsing

from .errors import CheckpointError
from .source import open_source

_PICKLES = (".pth", ".pt", ".tar", ".bin", ".pkl", ".ckpt")
_LINEN = ("params", "batch_stats", "step", "opt_state")  # the first keys of linen's variables, or of a TrainState
_MISTAKEN = {
    b"": "an empty file",
    b"\x1f\x8b": "compressed by gzip: unpack it",
    b"version https://git-lfs": "a pointer of git-lfs: run git lfs pull",
    b"<": "a web page: the link was not that of the file itself",
}


def detect(path: str | os.PathLike[str]) -> str:
    """Return the kind of a checkpoint: "torch", "safetensors", "keras", "linen" or "nnx".

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If the file is of no such kind.
    """
    name = os.fspath(path)
    if os.path.isdir(path):
        return _flax(_keys_of_folder(Path(path)))
    with open_source(path) as source:
        start = source.read(0, 1 << 10)
    if start.startswith(b"PK\x03\x04"):
        return _archive(name, start)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 30:
        return "safetensors"
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return "torch"
    if key := _first_key(start):
        return _flax([key])
    if start[257:262] == b"ustar":
        raise _unknown(name, "a tar archive: take the checkpoint out of it")
    looks = next((text for sign, text in _MISTAKEN.items() if sign and start.startswith(sign)), "")
    if start and not looks and name.endswith(_PICKLES):  # torch's reader has the better message
        return "torch"
    raise _unknown(name, looks or "of another format" if start else _MISTAKEN[b""])


def _archive(name: str, start: bytes) -> str:
    """Tell torch's zip archives from Keras's. A truncated archive still has the name of its first member."""
    try:
        with zipfile.ZipFile(name) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, RuntimeError, struct.error):  # all that zipfile raises
        names = {start[30 : 30 + int.from_bytes(start[26:28], "little")].decode(errors="replace")}
    if names & {"config.json", "metadata.json", "model.weights.h5"}:
        return "keras"
    if any(entry.endswith("data.pkl") for entry in names):
        return "torch"
    raise _unknown(name, "a zip archive of something else")


def _first_key(start: bytes) -> str:
    """Return the first key of a map in msgpack; "" if the bytes are no map."""
    lengths = {0xDE: 3, 0xDF: 5}
    place = 1 if start and 0x80 < start[0] < 0x90 else lengths.get(start[0] if start else 0, 0)
    kind = start[place : place + 1]
    if not place or not kind:
        return ""
    if 0xA0 < kind[0] < 0xC0:
        size, place = kind[0] - 0xA0, place + 1
    elif kind[0] == 0xD9:
        size, place = int.from_bytes(start[place + 1 : place + 2], "big"), place + 2
    else:
        return ""
    return start[place : place + size].decode(errors="replace")


def _keys_of_folder(folder: Path) -> list[str]:
    """Return the first keys of the tree that orbax wrote, which may lie in a folder inside."""
    places = (place for place in sorted((folder / "_METADATA", *folder.glob("*/_METADATA"))) if place.is_file())
    place = next(places, None)
    if place is None:
        raise _unknown(os.fspath(folder), "a folder without orbax's _METADATA")
    with parsing(lambda _: _unknown(os.fspath(folder), "orbax's _METADATA is broken")):
        tree: Any = parse_json(place.read_bytes())["tree_metadata"]
        return [str(entry["key_metadata"][0]["key"]) for entry in tree.values()]


def _flax(keys: list[str]) -> str:
    return "linen" if any(key in _LINEN for key in keys) else "nnx"


def _unknown(name: str, looks: str) -> CheckpointError:
    return CheckpointError(
        "path must name a checkpoint of torch (.pth, .pt, .pth.tar), .safetensors, Keras 3 (.keras, .weights.h5) or "
        f"Flax (.msgpack, or a folder that orbax wrote). Received: {name!r}, {looks}."
    )
