"""Read the file of a record of gates. Nothing in it is executed.

The reader trusts no number of it: an array is as long as its bytes in the file.
"""

import io
import os
import zipfile
from math import prod
from typing import Any

import numpy as np

from eca_multi._parsing import parse_json, parsing

from .errors import GatesFileError, bad_file
from .layer import BINS, MOST_CLASSES, LayerGates
from .moments import Array, Moments
from .record import GateRecord
from .write import FACTS, SCHEMA

_DTYPES = {"<f8": np.float64, "<i8": np.int64, "<f4": np.float32, "|u1": np.uint8}


def load_gates(path: str | os.PathLike[str]) -> GateRecord:
    """Read the record that `GateRecord.save` wrote.

    Args:
        path: Of the .npz file. No content of the file is executed, and reading takes memory as the file is long.

    Raises:
        GatesFileError: If the file is none, or is broken. OSError: If it cannot be opened.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from eca_multi.gates import GateRecord, LayerGates, load_gates
        >>> record = GateRecord("torch", "Net")
        >>> record.add(LayerGates("eca", channels=3, kernel=np.zeros(3)), np.ones((2, 3)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     record.save(os.path.join(folder, "gates.npz"))
        ...     load_gates(os.path.join(folder, "gates.npz"))["eca"].mean
        array([1., 1., 1.])
    """
    name = os.fsdecode(path)
    with open(path, "rb") as file, parsing(lambda reason: bad_file(name, reason), GatesFileError):
        size = os.fstat(file.fileno()).st_size
        with zipfile.ZipFile(file) as archive:
            if sum(entry.compress_size for entry in archive.infolist()) > size:
                raise zipfile.BadZipFile("members that overlap")
            facts = parse_json(_array(archive, FACTS, None, "|u1").tobytes())
            return _record(facts, archive)


def _record(facts: Any, archive: zipfile.ZipFile) -> GateRecord:
    if _of(facts, "schema", int) != SCHEMA:
        raise ValueError(f"schema {facts['schema']}, and this version reads schema {SCHEMA}")
    record = GateRecord(_of(facts, "framework", str), _of(facts, "network", str), raw=_of(facts, "raw", int))
    for number, known in enumerate(_of(facts, "layers", list)):
        layer = _layer(known, archive, number, record.most_raw)
        if layer.path in record:
            raise ValueError(f"two layers of the path {layer.path!r}")
        record._layers[layer.path] = layer
    return record


def _layer(known: Any, archive: zipfile.ZipFile, number: int, most_raw: int) -> LayerGates:
    channels, count = _of(known, "channels", int), _of(known, "count", int)
    classes, raw_labels = _of(known, "classes", list), _of(known, "raw_labels", list)
    pool_axes, causal_axis = known["pool_axes"], known["causal_axis"]
    axes = [*(pool_axes or ()), *([] if causal_axis is None else [causal_axis])]
    if channels < 1 or count < 0 or len(classes) > MOST_CLASSES or not all(type(axis) is int for axis in axes):
        raise ValueError(f"numbers of the layer {number} that no record has")

    def array(name: str, shape: tuple[int, ...] | None, dtype: str = "<f8") -> Any:
        return _array(archive, f"{number}/{name}.npy", shape, dtype)

    kernel = array("kernel", None)
    if kernel.ndim not in (1, 2) or kernel.shape[-1] % 2 == 0 or kernel.shape[:-1] not in ((), (channels,)):
        raise ValueError(f"a kernel of shape {kernel.shape} for {channels} channels")
    layer = LayerGates(
        _of(known, "path", str),
        channels,
        kernel,
        _of(known, "gate", str),
        _of(known, "padding", str),
        None if pool_axes is None else tuple(pool_axes),
        causal_axis,
        _of(known, "inserted", bool),
        most_raw,
        _of(known, "calls", int),
    )
    layer.not_finite = _of(known, "not_finite", int)
    layer.all = _moments(channels, count, array("mean", (channels,)), array("squares", (channels,)))
    layer.minimum, layer.maximum = array("minimum", (channels,)), array("maximum", (channels,))
    layer.histogram = array("histogram", (BINS + 2,), "<i8")
    means, squares = (array(name, (len(classes), channels)) for name in ("class_mean", "class_squares"))
    for (label, rows), mean, square in zip(classes, means, squares, strict=True):
        if type(label) not in (int, str) or type(rows) is not int:
            raise ValueError("a class that is neither a number nor a name")
        layer.classes[label] = _moments(channels, rows, mean, square)
    if len(layer.classes) < len(classes) or not all(type(x) in (int, str, type(None)) for x in raw_labels):
        raise ValueError("labels that no record has")
    layer.raw_labels = raw_labels
    layer._raw = [array("raw", (len(raw_labels), channels), "<f4")]
    return layer


def _moments(channels: int, count: int, mean: Array, squares: Array) -> Moments:
    moments = Moments(channels)
    moments.count, moments.mean, moments.squares = count, mean, squares
    return moments


def _of(facts: Any, name: str, kind: type) -> Any:
    value = facts[name]
    if type(value) is not kind:
        raise ValueError(f"{name} is a {type(value).__name__}")
    return value


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...] | None, dtype: str) -> Any:
    """Return the array of a member, of the expected dtype and shape; None expects any shape."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"{name} is compressed, which no record is")
    data = archive.read(entry)  # as long as it is in the file; zipfile compares the checksum
    header = io.BytesIO(data)
    if np.lib.format.read_magic(header) != (1, 0):
        raise ValueError(f"{name} is an array of another version")
    found, fortran, kind = np.lib.format.read_array_header_1_0(header)
    if kind.str != dtype or (shape is not None and found != shape) or (fortran and len(found) > 1):
        raise ValueError(f"{name} is of {kind.str} and shape {found}")
    rest = data[header.tell() :]
    if min(found, default=1) < 0 or prod(found) * kind.itemsize != len(rest):
        raise ValueError(f"{name} has {len(rest)} bytes for shape {found}")
    return np.frombuffer(rest, _DTYPES[dtype]).reshape(found).copy()
