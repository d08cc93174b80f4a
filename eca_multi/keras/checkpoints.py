"""Checkpoints of Keras: read them without making anything in them but arrays, and write them."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import keras

from eca_multi._files.disk import find
from eca_multi._files.file import whole_file
from eca_multi._files.scratch import scratch_folder
from eca_multi.checkpoints.errors import reading
from eca_multi.checkpoints.source import open_source
from eca_multi.checkpoints.stored import Stored
from eca_multi.checkpoints.take import Checkpoint, take
from eca_multi.checkpoints.write import check_metadata, check_suffix

from ._formats.model_file import CONFIG, METADATA, WEIGHTS, read_model_file
from ._formats.skeleton import write_weights_file

SUFFIXES = (".keras", ".weights.h5")
_WHAT = ".keras or .weights.h5 file of Keras 3"
_REMEDY = "Copy the file again, or write it with model.save or model.save_weights."


def read_checkpoint(path: str | os.PathLike[str], arch: str | None = None, *, mmap: bool = False) -> Checkpoint:
    """Read the weights of a network from a `.keras` or `.weights.h5` file.

    Nothing is deserialised: only the HDF5 file in a `.keras` archive is read, in place, and not the config, which can
    hold code. An optimizer's state is skipped. Arrays are copies.

    Args:
        path: The file. Its content decides which of the two it is.
        arch: Name of the network, if it is known; otherwise names and shapes decide.
        mmap: Whether arrays are read-only views of the file instead of copies. A program that then cuts the file off or
            writes to it, as a trainer does, ends the process or changes the arrays.

    Returns:
        The canonical weights, the network and how to build it, and the facts in the file.

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


@contextmanager
def open_tensors(
    path: str | os.PathLike[str], *, mmap: bool = False
) -> Iterator[tuple[dict[str, Stored], dict[str, str]]]:
    """Give a file's tensors, which `load` reads while the file is open, and the facts in the file.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete file of Keras 3, or was written to meanwhile.
    """
    with open_source(path, mmap) as source:
        with reading(_WHAT, _REMEDY, source.name):
            tensors, facts = read_model_file(source)
        yield tensors, facts


def write_checkpoint(
    checkpoint: Checkpoint, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a network's weights to a `.keras` or `.weights.h5` file, whole or not at all.

    `keras.saving.load_model` makes the network of a `.keras` file after an import of `eca_multi.keras`, and a network's
    `load_weights` takes both. The file is written beside its final name and renamed.

    Args:
        checkpoint: As `read_checkpoint` of any framework returns.
        path: Where to write; an existing file is replaced. The suffix chooses one of the two formats.
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
    name = check_suffix(path, SUFFIXES)
    texts = check_metadata(metadata)
    with scratch_folder(parent=find(path)[0].parent) as folder:
        weights = folder / WEIGHTS
        config = write_weights_file(checkpoint, weights, texts)
        with whole_file(path) as file:
            if name.endswith(".keras"):
                with zipfile.ZipFile(file, "w") as archive:
                    date = datetime.now().strftime("%Y-%m-%d@%H:%M:%S")
                    archive.writestr(METADATA, json.dumps({"keras_version": keras.__version__, "date_saved": date}))
                    archive.writestr(CONFIG, config)
                    archive.write(weights, WEIGHTS)
            else:
                with open(weights, "rb") as written:
                    shutil.copyfileobj(written, file, 1 << 20)
