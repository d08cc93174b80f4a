"""Checkpoints of a nnx network's state: read them without making anything in them but arrays, and write them."""

import os
from collections.abc import Mapping

from eca_multi.checkpoints.take import Checkpoint, take
from eca_multi.flax._formats.network import open_network, write_network


def read_checkpoint(path: str | os.PathLike[str], arch: str | None = None, *, mmap: bool = False) -> Checkpoint:
    """Read the weights of a network from a msgpack file, or from a folder that orbax wrote.

    An optimizer's state and everything else beside the weights is skipped. Arrays are copies.

    Args:
        path: The file or folder.
        arch: Name of the network, if it is known; otherwise names and shapes decide.
        mmap: Whether arrays are read-only views of a msgpack file instead of copies; those of a folder are always
            copies. A program that then cuts the file off or writes to it, as a trainer does, ends the process or
            changes the arrays.

    Returns:
        The canonical weights, the network and how to build it, and the facts in the file.

    Raises:
        OSError: If the file or folder cannot be read.
        CheckpointError: If it is no complete file or folder of Flax, or is of no known network.
        TypeError, ValueError: If `arch` is no network's name, or a tensor is not of floating point or not finite.

    Example:
        >>> from flax import nnx, serialization
        >>> from eca_multi.flax.nnx import eca_resnet18
        >>> from eca_multi.flax.nnx.checkpoints import read_checkpoint
        >>> model = eca_resnet18(num_classes=10, rngs=nnx.Rngs(0))
        >>> size = open("model.msgpack", "wb").write(serialization.to_bytes(nnx.to_pure_dict(nnx.state(model))))
        >>> checkpoint = read_checkpoint("model.msgpack")
        >>> checkpoint.found.network.name, checkpoint.found.num_classes
        ('eca_resnet18', 10)
    """
    with open_tensors(path, mmap=mmap) as (tensors, facts):
        return take(tensors, arch, facts)


open_tensors = open_network  # linen and nnx have the same formats


def write_checkpoint(
    checkpoint: Checkpoint, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a network's weights, whole or not at all: to a `.msgpack` file, or to a folder by orbax.

    `nnx.update` takes what `flax.serialization.msgpack_restore(data)` returns, and orbax the folder.

    Args:
        checkpoint: As `read_checkpoint` of any framework returns.
        path: Where to write; an existing file or folder is replaced.
        metadata: Strings to keep: in the file under `__eca_multi__`, in the folder in `eca_multi.json`.

    Raises:
        TypeError, ValueError: If the path has the suffix of another format, or the metadata are no strings.
        OSError: If the folder is missing or cannot be written to, or the disk is full.
    """
    write_network(checkpoint, path, metadata, collections=False)
