"""Files that Keras wrote of a network, read without making anything of them but arrays; and written."""

import contextlib
import functools
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]  # it has none
import keras
import numpy as np
from keras.src.backend.common import global_state  # without a public name

from eca_multi._files.disk import find
from eca_multi._files.file import whole_file
from eca_multi._files.scratch import scratch_folder
from eca_multi._parsing import parse_json, parsing
from eca_multi.checkpoints import (
    Checkpoint,
    CheckpointError,
    Source,
    Stored,
    check_metadata,
    check_total,
    open_archive,
    open_source,
    place_of,
    take,
)

from . import networks
from ._hdf5 import File, Node
from ._network_weights import VARIABLES, canonical_view, names_in, native_view

SUFFIXES = (".keras", ".weights.h5")
WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"  # in a .keras archive
OURS = "eca_multi"  # the attribute of the HDF5 file that holds what is said of the weights, as JSON
_CLASSES = {name.lower(): name for name in VARIABLES}


def read_checkpoint(path: str | os.PathLike[str], arch: str | None = None, *, mmap: bool = False) -> Checkpoint:
    """Read the weights of a network from a `.keras` or `.weights.h5` file.

    Nothing is deserialised: of a `.keras` archive its HDF5 file alone is read, in place, and the config, which can
    hold code, is left alone. An optimizer's state is left alone too. Arrays are copies.

    Args:
        path: The file. What it is, is read from its content.
        arch: Name of the network, where it is known; otherwise it is found by names and shapes.
        mmap: Whether arrays are read-only views of the file instead of copies. What then cuts the file off or writes
            to it, as a trainer does, ends the process or changes the arrays.

    Returns:
        The canonical weights, the network and how it must be built, and what the file says of itself.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete file of Keras 3, or is of no known network.
        TypeError, ValueError: If `arch` is no network's name, or a tensor is not of floating point or not finite.

    Example:
        >>> from eca_multi.keras import eca_resnet18
        >>> from eca_multi.keras.checkpoints import read_checkpoint
        >>> model = eca_resnet18(num_classes=10)
        >>> model.save("model.keras")
        >>> checkpoint = read_checkpoint("model.keras")
        >>> checkpoint.found.network.name, checkpoint.found.num_classes
        ('eca_resnet18', 10)
    """
    with open_tensors(path, mmap=mmap) as (tensors, facts):
        return take(tensors, arch, facts)


@contextlib.contextmanager
def open_tensors(
    path: str | os.PathLike[str], *, mmap: bool = False
) -> Iterator[tuple[dict[str, Stored], dict[str, str]]]:
    """Give a file's tensors, each to be read while the file is open, and what it says of itself.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete file of Keras 3, or was written to meanwhile.
    """
    with open_source(path, mmap) as source:
        yield _tensors(source)


def _tensors(source: Source) -> tuple[dict[str, Stored], dict[str, str]]:
    start = source.read(0, 8)
    with parsing(lambda reason: _incomplete(source.name, reason), CheckpointError):
        if start[:4] == b"PK\x03\x04":
            return _read_archive(source)
        if start == b"\x89HDF\r\n\x1a\n":
            return _read_h5(source, 0, source.size)
        raise ValueError("neither an archive nor HDF5")


def _read_archive(source: Source) -> tuple[dict[str, Stored], dict[str, str]]:
    with open_archive(source) as archive:
        if WEIGHTS not in archive.namelist():
            raise ValueError(f"without {WEIGHTS}")
        tensors, facts = _read_h5(source, *place_of(source, archive, archive.getinfo(WEIGHTS)))
        if METADATA in archive.namelist():
            start, end = place_of(source, archive, archive.getinfo(METADATA))
            facts = _texts(source.read(start, end - start)) | facts
    return tensors, facts


def _read_h5(source: Source, start: int, end: int) -> tuple[dict[str, Stored], dict[str, str]]:
    """Find the tensors of an HDF5 file that lies between two places of a file."""
    file = File(source, start, end)
    top = file.children(file.root)
    if "layers" not in top:
        raise ValueError("without layers: a file of Keras 2, or of a model that has no graph")
    tensors: dict[str, Stored] = {}
    for key, layer in file.children(top["layers"]).items():
        group = file.children(layer).get("vars")
        variables = {} if group is None else file.children(group)
        if group is None or not variables:
            continue
        name = file.attribute(group, "name")
        if name is None:
            raise ValueError(f"layers/{key} has no name: written by an older Keras")
        for i, (tensor, kind) in enumerate(_names(key, name, len(variables))):
            if str(i) not in variables:
                raise ValueError(f"layers/{key} has no variable {i}")
            if tensor in tensors:
                raise ValueError(f"two layers hold {tensor}")
            stored = _stored(file, variables[str(i)], end)
            tensors[tensor] = stored.viewed(functools.partial(canonical_view, kind))
    check_total(tensors, source.size)
    return tensors, _texts(file.attribute(file.root, OURS) or "{}")


def _names(key: str, layer: str, count: int) -> list[tuple[str, str]]:
    """The canonical name and the kind of each variable of a layer, from its key and its name in a file."""
    cls, _, number = key.rpartition("_")
    cls = _CLASSES.get((cls if number.isdigit() else key).replace("_", ""), "")
    return names_in(layer, cls, count)


def _stored(file: File, node: Node, end: int) -> Stored:
    dataset = file.dataset(node)
    bfloat16 = file.attribute(node, "dtype") == "bfloat16"
    if dataset.dtype == "opaque" and not bfloat16:
        raise ValueError(f"{node.path} is no array of numbers")
    dtype = "<u2" if bfloat16 else dataset.dtype
    tensor = file.source.tensor(dtype, dataset.shape, dataset.place, end, bfloat16=bfloat16)
    if tensor.size * np.dtype(dtype).itemsize != dataset.nbytes:
        raise ValueError(f"{node.path} of shape {dataset.shape} stores {dataset.nbytes} bytes")
    return tensor


def _texts(text: str | bytes) -> dict[str, str]:
    """The entries of a JSON object, as text."""
    content = parse_json(text)
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def _incomplete(name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"path must name a complete .keras or .weights.h5 file of Keras 3. Received: {name!r} ({reason}). "
        "Copy the file again, or write it with model.save or model.save_weights."
    )


def write_checkpoint(
    checkpoint: Checkpoint, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a network's weights to a `.keras` or `.weights.h5` file, whole or not at all.

    `keras.saving.load_model` makes the network of a `.keras` file, once `eca_multi.keras` is imported, and a network's
    `load_weights` takes both. The file is written beside its final name and renamed.

    Args:
        checkpoint: As `read_checkpoint` of any framework returns.
        path: Where to write; an existing file is replaced. Its suffix says which of the two is written.
        metadata: Strings to keep in the file: as JSON in the attribute `eca_multi` of the HDF5 file.

    Raises:
        TypeError, ValueError: If the suffix is another, or the metadata are no strings.
        OSError: If the folder is missing or cannot be written to, or the disk is full.

    Example:
        >>> from eca_multi.keras import eca_resnet18
        >>> from eca_multi.keras.checkpoints import read_checkpoint, write_checkpoint
        >>> eca_resnet18(num_classes=10).save_weights("model.weights.h5")
        >>> write_checkpoint(read_checkpoint("model.weights.h5"), "model.keras", {"source": "mine"})
        >>> read_checkpoint("model.keras").facts["source"]
        'mine'
    """
    name = os.fsdecode(path)
    if not name.endswith(SUFFIXES):
        raise ValueError(f"path must end in .keras or .weights.h5. Received: {name!r}. Rename it.")
    texts = check_metadata(metadata)
    with scratch_folder(parent=find(path)[0].parent) as folder:
        weights = folder / WEIGHTS
        config = _skeleton(checkpoint, weights)
        with h5py.File(weights, "r+") as content:
            for key, kind, dataset in _datasets(content["layers"]):
                dataset[...] = native_view(kind, checkpoint.weights[key])
            content.attrs[OURS] = json.dumps(texts)
        with whole_file(path) as file:
            if name.endswith(".keras"):
                with zipfile.ZipFile(file, "w") as archive:
                    archive.writestr(METADATA, json.dumps(_versions()))
                    archive.writestr(CONFIG, config)
                    archive.write(weights, WEIGHTS)
            else:
                with open(weights, "rb") as made:
                    shutil.copyfileobj(made, file, 1 << 20)


def _datasets(layers: Any) -> Iterator[tuple[str, str, Any]]:
    """The canonical name, the kind and the dataset of each variable of a file that Keras just wrote."""
    for key, layer in layers.items():
        variables = layer.get("vars", {})
        for i, (name, kind) in enumerate(_names(key, variables.attrs["name"], len(variables)) if variables else ()):
            yield name, kind, variables[str(i)]


def _skeleton(checkpoint: Checkpoint, path: Path) -> str:
    """Let Keras write the file of a fresh network, whose places are then filled; return the network's config."""
    dtype = np.result_type(*(array.dtype for array in checkpoint.weights.values()))
    build: Callable[..., Any] = getattr(networks, checkpoint.found.network.name)
    with _nothing_allocated() as scope:
        model = build(**checkpoint.found.options, dtype=dtype.name)
        for variable in model.variables:
            zeros = np.broadcast_to(np.zeros((), variable.dtype), variable.shape)  # of one number
            scope.add_update((variable, zeros))
        model.save_weights(path)
        text: str = model.to_json()
    return text


@contextlib.contextmanager
def _nothing_allocated() -> Iterator[Any]:
    """Give a scope in which variables are made without values: a network is as large as its file."""
    pending = global_state.get_global_attribute("uninitialized_variables")
    global_state.set_global_attribute("uninitialized_variables", [])
    try:
        with keras.StatelessScope(initialize_variables=False) as scope:
            yield scope
    finally:
        global_state.set_global_attribute("uninitialized_variables", pending)


def _versions() -> dict[str, str]:
    return {"keras_version": keras.__version__, "date_saved": datetime.now().strftime("%Y-%m-%d@%H:%M:%S")}
