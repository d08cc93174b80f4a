"""Reading `.safetensors` files of any size and dtype: tensors are mapped into memory, not read."""

import json
import os
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from .identify import CheckpointError

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return a file's tensors and its metadata. Tensors are read-only views of the file, but bfloat16, which NumPy has
    not: it is widened to float32, exactly.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete `.safetensors` file, or holds a tensor of another dtype.
    """
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
