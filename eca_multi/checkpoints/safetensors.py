"""`.safetensors` files of any size, of canonical weights or of any tensors, read and written one after another."""

import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from eca_multi._canonical import Weights, check_weights
from eca_multi._files.file import whole_file
from eca_multi._parsing import parse_json

from .errors import CheckpointError, reading
from .source import Source, open_source
from .stored import DTYPES, Stored, check_count, check_total

# The format's code of each dtype.
_CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip
_NAMES = {code: name for name, code in _CODES.items()}
_LONGEST_HEADER = 100 << 20  # bytes, as in the safetensors library
Layout = Mapping[str, tuple[str, tuple[int, ...]]]


def save_file(
    weights: Mapping[str, np.ndarray], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write canonical weights to a `.safetensors` file, whole or not at all.

    The file is written beside its final name and renamed, so a full disk or a crash leaves the old file.

    Args:
        weights: Canonical names to floating-point arrays, as `to_canonical` returns.
        path: Where to write; an existing file is replaced.
        metadata: Strings to keep in the file's header.

    Raises:
        TypeError, ValueError: If a tensor is not a finite floating-point array; nothing is written.
        OSError: If the folder is missing or cannot be written to.

    Example:
        >>> import numpy as np
        >>> from eca_multi.checkpoints import load_file, save_file
        >>> save_file({"weight": np.array([0.1, 0.2, 0.3])}, "eca.safetensors")
        >>> load_file("eca.safetensors")["weight"].shape
        (3,)
    """
    write_safetensors(check_weights(weights), path, metadata)


def load_file(path: str | os.PathLike[str]) -> Weights:
    """Read canonical weights from a `.safetensors` file.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete `.safetensors` file, or holds a tensor of a dtype that NumPy lacks.
        ValueError: If it holds a tensor that is not finite.
        TypeError: If it holds a tensor that is not float16, bfloat16 (widened to float32), float32 or float64.

    Example:
        >>> import numpy as np
        >>> from eca_multi.checkpoints import load_file, save_file
        >>> save_file({"weight": np.array([0.5, 0.25, 0.125])}, "eca.safetensors")
        >>> load_file("eca.safetensors")
        {'weight': array([0.5  , 0.25 , 0.125])}
    """
    return check_weights(read_safetensors(path)[0])


def read_safetensors(
    path: str | os.PathLike[str], *, mmap: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return a file's tensors and its metadata. bfloat16, which NumPy does not have, becomes float32 exactly.

    Args:
        path: The file.
        mmap: Whether tensors are read-only views of the file instead of copies. A program that then cuts the file off
            or writes to it, as a trainer does, ends this process or changes the tensors.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete `.safetensors` file, or holds a tensor of another dtype.
    """
    with open_source(path, mmap) as source:
        tensors, metadata = list_safetensors(source)
        return {name: tensor.load() for name, tensor in tensors.items()}, metadata


def unpack_safetensors(data: bytes, name: str) -> dict[str, np.ndarray]:
    """Return the tensors in the bytes of a file, as `read_safetensors` does; `name` is for messages."""
    tensors, _ = list_safetensors(Source(name, io.BytesIO(data), len(data)))
    return {key: tensor.load() for key, tensor in tensors.items()}


def list_safetensors(source: Source) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors of an open file, not yet read, and its metadata.

    Raises CheckpointError if it is no complete `.safetensors` file, or holds a tensor of another dtype.
    """
    with reading(".safetensors file", "Copy the file again.", source.name):
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
    code, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if code not in _NAMES:
        raise CheckpointError(
            f"tensors must be of a dtype of NumPy, or bfloat16. Received: {name!r} of dtype {code}. Store float32."
        )
    return source.tensor(DTYPES[_NAMES[code]], shape, start + first, start + last, fills=True)


def write_safetensors(
    weights: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    layout: Layout | None = None,
) -> None:
    """Write arrays to a file, whole or not at all, one after another.

    Args:
        weights: By name. The mapping is asked for each array once more when the array is written.
        path: Where to write.
        metadata: Strings to keep in the header.
        layout: The name and the shape of each array in the file; None keeps its own.
    """
    with whole_file(path) as file:
        for piece in pack_safetensors(weights, metadata, layout):
            file.write(piece)


def pack_safetensors(
    weights: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None, layout: Layout | None = None
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file, one array at a time; the arguments are those of `write_safetensors`.

    Raises KeyError if an array is of a dtype that the format does not have.
    """
    itemsizes = {name: array.itemsize for name, array in weights.items()}
    ordered = sorted(itemsizes, key=lambda name: -itemsizes[name])  # so that each lies at a multiple of its item's size
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, array in weights.items():
        header[_placed(name, array, layout)[0]] = {}  # the header keeps the order of the weights
    arrays = dict(weights)
    for name in ordered:
        array = arrays.pop(name)
        key, shape = _placed(name, array, layout)
        offsets = (place, place + array.nbytes)
        header[key] = {"dtype": _CODES[array.dtype.name], "shape": shape, "data_offsets": offsets}
        place += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in ordered:
        array = np.ascontiguousarray(weights[name])
        yield array.astype(array.dtype.newbyteorder("<"), copy=False).data


def _placed(name: str, array: np.ndarray, layout: Layout | None) -> tuple[str, tuple[int, ...]]:
    return (name, array.shape) if layout is None else layout[name]
