"""`.safetensors` files of any size: tensors are read and written one after another."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_multi._files.file import whole_file
from eca_multi._parsing import parse_json, parsing

from .identify import CheckpointError
from .source import Source, Stored, check_count, check_total, open_source

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip
_LONGEST_HEADER = 100 << 20  # as in the safetensors library
_WRITTEN = {"float64": "F64", "float32": "F32", "float16": "F16"}


def read_safetensors(
    path: str | os.PathLike[str], *, mmap: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return a file's tensors and its metadata. bfloat16, which NumPy has not, is widened to float32, exactly.

    Args:
        path: The file.
        mmap: Whether tensors are read-only views of the file instead of copies. What then cuts the file off or writes
            to it, as a trainer does, ends the process or changes the tensors.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete `.safetensors` file, or holds a tensor of another dtype.
    """
    with open_source(path, mmap) as source:
        tensors, metadata = list_safetensors(source)
        return {name: tensor.load() for name, tensor in tensors.items()}, metadata


def list_safetensors(source: Source) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors of an open file, not yet read, and its metadata.

    Raises:
        CheckpointError: If it is no complete `.safetensors` file, or holds a tensor of another dtype.
    """
    with parsing(lambda reason: _incomplete(source.name, reason), CheckpointError):
        length = int.from_bytes(source.read(0, 8), "little")
        if not 2 <= length <= min(source.size - 8, _LONGEST_HEADER):
            raise ValueError(f"a header of {length} bytes in a file of {source.size}")
        header = parse_json(source.read(8, length))
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata that are no strings")
        check_count(header)
        tensors = {name: _tensor(source, name, entry, 8 + length) for name, entry in header.items()}
        check_total(tensors, source.size)
        places = sorted(entry["data_offsets"] for entry in header.values())
        ends = [0, *(end for _, end in places)]
        if ends != [*(start for start, _ in places), source.size - 8 - length]:
            raise ValueError("tensors that do not fill the file one after another")
        return tensors, metadata


def _tensor(source: Source, name: str, entry: dict[str, Any], start: int) -> Stored:
    kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in _DTYPES:
        raise CheckpointError(
            f"tensors must be of a dtype of NumPy, or bfloat16. Received: {name!r} of dtype {kind}. Store float32."
        )
    tensor = source.tensor(_DTYPES[kind], shape, start + first, start + last, bfloat16=kind == "BF16")
    if tensor.size * np.dtype(_DTYPES[kind]).itemsize != last - first:
        raise ValueError(f"{name!r} of shape {tensor.shape} in {last - first} bytes")
    return tensor


def _incomplete(name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"path must name a complete .safetensors file. Received: {name!r} ({reason}). Copy the file again."
    )


def write_safetensors(
    weights: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    stored: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
) -> None:
    """Write floating-point arrays to a file, whole or not at all, one after another.

    Args:
        weights: By name. Each is taken out once more when it is written.
        path: Where to write.
        metadata: Strings to keep in the header.
        stored: The name and the shape that an array has in the file, where they differ.
    """
    # The largest numbers first, so that each lies at a multiple of its size.
    sizes = {name: array.itemsize for name, array in weights.items()}
    ordered = sorted(sizes, key=lambda name: -sizes[name])
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, array in weights.items():
        header[_stored(name, array, stored)[0]] = {}  # in the order of the weights
    arrays = dict(weights)
    for name in ordered:
        array = arrays.pop(name)
        key, shape = _stored(name, array, stored)
        header[key] = {
            "dtype": _WRITTEN[array.dtype.name], "shape": shape, "data_offsets": (place, place + array.nbytes),
        }  # fmt: skip
        place += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            array = np.ascontiguousarray(weights[name])
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)


def _stored(
    name: str, array: np.ndarray, stored: Mapping[str, tuple[str, tuple[int, ...]]] | None
) -> tuple[str, tuple[int, ...]]:
    return (name, array.shape) if stored is None else stored[name]
