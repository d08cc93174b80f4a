"""Files that Keras wrote of a network, read without making anything of them but arrays; and written."""

import contextlib
import io
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

from eca_multi._checkpoints import Checkpoint, CheckpointError, check_metadata, take
from eca_multi._disk import find
from eca_multi._files import whole_file
from eca_multi._scratch import scratch_folder

from . import networks
from ._network_weights import VARIABLES, canonical_view, names_in, native_view

SUFFIXES = (".keras", ".weights.h5")
WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"  # in a .keras archive
OURS = "eca_multi"  # the attribute of the HDF5 file that holds what is said of the weights, as JSON
_MOST = 1000  # a compressed dataset may be this many times larger in memory than in the file
_CLASSES = {name.lower(): name for name in VARIABLES}


def read_checkpoint(path: str | os.PathLike[str], arch: str | None = None) -> Checkpoint:
    """Read the weights of a network from a `.keras` or `.weights.h5` file.

    Nothing is deserialised: of a `.keras` archive its HDF5 file alone is read, in place, and the config, which can
    hold code, is left alone. An optimizer's state is left alone too. Arrays are views of the file where they are
    stored as such, which is how Keras stores them.

    Args:
        path: The file. What it is, is read from its content.
        arch: Name of the network, where it is known; otherwise it is found by names and shapes.

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
    name = os.fspath(path)
    with open(path, "rb") as file:
        start = file.read(8)
        try:
            if start[:4] == b"PK\x03\x04":
                arrays, facts = _read_archive(name)
            elif start == b"\x89HDF\r\n\x1a\n":
                arrays, facts = _read_h5(file, name, 0)
            else:
                raise _incomplete(name, "neither an archive nor HDF5")
        except CheckpointError:
            raise
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
            raise _incomplete(name, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    return take(arrays, arch, facts)


def _read_archive(name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with zipfile.ZipFile(name) as archive:
        if WEIGHTS not in archive.namelist():
            raise _incomplete(name, f"without {WEIGHTS}")
        info = archive.getinfo(WEIGHTS)
        if info.compress_type != zipfile.ZIP_STORED:
            raise _incomplete(name, f"{WEIGHTS} is compressed, which Keras never does")
        with archive.open(info) as member:
            while member.read(1 << 20):  # to the end: that is where the checksum is compared
                pass
        with open(name, "rb") as file:
            file.seek(info.header_offset + 26)  # of 30 bytes, to which a name and extra fields are added
            lengths = file.read(4)
            offset = file.tell() + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            arrays, facts = _read_h5(_Part(file, offset, info.file_size), name, offset)
        if METADATA in archive.namelist() and archive.getinfo(METADATA).file_size < 1 << 20:
            facts = _texts(archive.read(METADATA)) | facts
    return arrays, facts


class _Part(io.RawIOBase):
    """A stretch of a file as a file: a member of an archive, whose own file objects seek backwards by reading anew."""

    def __init__(self, file: io.BufferedReader, start: int, size: int) -> None:
        self.file, self.start, self.size, self.place = file, start, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = offset + (0, self.place, self.size)[whence]
        return self.place

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.start + self.place)
        count = self.file.readinto(memoryview(buffer)[: max(self.size - self.place, 0)])
        self.place += count
        return count


def _read_h5(file: Any, name: str, offset: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays of an HDF5 file that starts `offset` bytes into the file `name`."""
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(file, "r") as content:
        if "layers" not in content or not isinstance(content["layers"], h5py.Group):
            raise _incomplete(name, "without layers: a file of Keras 2, or of a model that has no graph")
        for key, kind, dataset in _datasets(content["layers"]):
            if key in arrays:
                raise _incomplete(name, f"two layers hold {key}")
            array = _array(dataset, name, offset)
            arrays[key] = canonical_view(kind, array)
        facts = _texts(content.attrs.get(OURS, "{}"))
    return arrays, facts


def _datasets(layers: Any) -> Iterator[tuple[str, str, Any]]:
    """The canonical name, the kind and the dataset of each variable of a model's layers."""
    for key in layers:
        variables = _inside(_inside(layers, key, h5py.Group), "vars", h5py.Group)
        if variables is None or not len(variables):
            continue
        layer = variables.attrs.get("name")
        if not isinstance(layer, str):
            raise ValueError(f"layers/{key} has no name: written by an older Keras")
        cls, _, number = key.rpartition("_")
        cls = _CLASSES.get((cls if number.isdigit() else key).replace("_", ""), "")
        names = names_in(layer, cls, len(variables))
        for i, (name, kind) in enumerate(names):
            dataset = _inside(variables, str(i), h5py.Dataset)
            if dataset is None:
                raise ValueError(f"layers/{key} has no variable {i}")
            yield name, kind, dataset


def _inside(group: Any, key: str, kind: type) -> Any:
    """What a group holds itself; a link into another place or another file is refused."""
    if group is None or key not in group:
        return None
    link = group.get(key, getlink=True)
    found = group[key] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, kind):
        raise ValueError(f"{group.name}/{key} is no {kind.__name__.lower()} of its own")
    return found


def _array(dataset: Any, name: str, offset: int) -> np.ndarray:
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} lies in another file")
    place, dtype = dataset.id.get_offset(), dataset.dtype
    if place is None and dataset.nbytes > _MOST * max(dataset.id.get_storage_size(), 1 << 20):
        raise ValueError(f"{dataset.name} is of {dataset.nbytes} bytes and stores next to none")
    if dataset.attrs.get("dtype") == "bfloat16":
        bits = dataset[()].view("<u2")
        widened: np.ndarray = (bits.astype("<u4") << 16).view("<f4")
        return widened
    if place is None or not dtype.isnative:
        return np.asarray(dataset[()])
    return np.memmap(name, dtype, "r", offset + place, dataset.shape)


def _texts(text: str | bytes) -> dict[str, str]:
    """The entries of a JSON object, as text."""
    content = json.loads(text)
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
