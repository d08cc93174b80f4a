"""`.safetensors` files of any size: tensors are mapped into memory when read, and written one after another."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_multi._files import whole_file

from .identify import CheckpointError

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip
_WRITTEN = {"float64": "F64", "float32": "F32", "float16": "F16"}


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return a file's tensors and its metadata. Tensors are read-only views of the file, but bfloat16, which NumPy has
    not: it is widened to float32, exactly.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete `.safetensors` file, or holds a tensor of another dtype.
    """
    from safetensors import SafetensorError, safe_open  # an extension, and few who import a layer read a file

    name = os.fspath(path)
    with open(path, "rb") as file:
        start = file.read(8)
    try:
        with safe_open(name, framework="np") as checked:  # it checks sizes and offsets
            metadata = dict(checked.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"path must name a complete .safetensors file. Received: {name!r} ({error}). Copy the file again."
        ) from error
    length = int.from_bytes(start, "little")
    with open(path, "rb") as file:
        file.seek(8)
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r")[8 + length :] if header else np.empty(0, np.uint8)
    return {key: _view(key, entry, data) for key, entry in header.items()}, metadata


def _view(name: str, entry: dict[str, Any], data: np.ndarray) -> np.ndarray:
    kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in _DTYPES:
        raise CheckpointError(
            f"tensors must be of a dtype of NumPy, or bfloat16. Received: {name!r} of dtype {kind}. Store float32."
        )
    array = data[first:last].view(_DTYPES[kind]).reshape(shape)
    return (array.astype("<u4") << 16).view("<f4") if kind == "BF16" else array


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
