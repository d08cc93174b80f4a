"""Read a checkpoint of any kind. Only the framework that wrote the file is imported, and only when it is needed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from .detect import detect
from .safetensors import list_safetensors
from .source import open_source
from .stored import Stored
from .take import Checkpoint, take

# The module of each kind of file. Each has read_checkpoint, open_tensors and write_checkpoint.
MODULES = {
    "torch": "eca_multi.torch.checkpoints",
    "keras": "eca_multi.keras.checkpoints",
    "linen": "eca_multi.flax.linen.checkpoints",
    "nnx": "eca_multi.flax.nnx.checkpoints",
}


def read_checkpoint(
    path: str | os.PathLike[str], arch: str | None = None, *, key: str | None = None, mmap: bool = False
) -> Checkpoint:
    """Read a checkpoint of any framework.

    Args:
        path: The file, or a folder that orbax wrote. Its content decides which reader takes it.
        arch: Name of the network, if it is known.
        key: Place of the weights in a file of torch, "model" or "ema.model"; None looks in the usual places.
        mmap: Whether arrays are read-only views of the file instead of copies, if the format allows it (a folder of
            orbax does not). A program that then cuts the file off or writes to it, as a trainer does, ends this process
            or changes the arrays.

    Returns:
        `weights`, canonical and by name; `found`, the network and how to build it (`found.options` are the builder's
        keywords); `facts`, texts from the file.

    Raises:
        ImportError: If the framework that wrote the file is not installed.
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete checkpoint, holds what would run code, or is of no known network.
        TypeError, ValueError: If `arch` is no network's name, or a tensor is not of floating point or not finite.

    Example:
        >>> import torch
        >>> from eca_multi.checkpoints import read_checkpoint
        >>> from eca_multi.torch import eca_resnet18
        >>> torch.save({"state_dict": eca_resnet18(num_classes=10).state_dict(), "epoch": 3}, "model.pth.tar")
        >>> checkpoint = read_checkpoint("model.pth.tar")
        >>> checkpoint.found.network.name, checkpoint.found.kernel_sizes, checkpoint.facts["epoch"]
        ('eca_resnet18', (3, 3, 5, 5, 7, 7, 7, 7), '3')
        >>> checkpoint.weights["layer1.0.eca.weight"].shape
        (3,)
    """
    with open_tensors(detect(path), path, key=key, mmap=mmap) as (tensors, facts):
        return take(tensors, arch, facts)


@contextmanager
def open_tensors(
    kind: str, path: str | os.PathLike[str], *, key: str | None = None, mmap: bool = False
) -> Iterator[tuple[dict[str, Stored], dict[str, str]]]:
    """Give the tensors of a checkpoint, which `load` reads while it is open, and the texts beside them."""
    if key is not None and kind != "torch":
        raise ValueError(f"key must be None for a file of {kind}. Received: key={key!r}. Only torch's files have one.")
    if kind == "safetensors":
        with open_source(path, mmap) as source:
            yield list_safetensors(source)
        return
    options = {"key": key} if kind == "torch" else {}
    with import_module(MODULES[kind]).open_tensors(path, mmap=mmap, **options) as opened:
        yield opened
