"""Checkpoints of torch: read them without running anything in them, and write them."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from eca_multi._files.file import whole_file
from eca_multi.checkpoints.detect import detect
from eca_multi.checkpoints.errors import reading
from eca_multi.checkpoints.safetensors import list_safetensors, write_safetensors
from eca_multi.checkpoints.source import Source, open_source
from eca_multi.checkpoints.stored import Stored, check_total
from eca_multi.checkpoints.take import Checkpoint, take
from eca_multi.checkpoints.write import check_metadata, check_suffix
from eca_multi.networks import Tensor

from ._formats.file import read_file
from ._formats.state_dict import OURS, find_facts, find_state_dict
from ._network_weights import native_name

SUFFIXES = (".pth", ".pt", ".pth.tar", ".safetensors")
_WHAT = "file that torch.save wrote"
_REMEDY = "Copy the file again; a .pth.tar is not a tar archive and must not be unpacked."
_COUNTER = "num_batches_tracked"


def read_checkpoint(
    path: str | os.PathLike[str], arch: str | None = None, *, key: str | None = None, mmap: bool = False
) -> Checkpoint:
    """Read the weights of a network from a `.pth`, `.pt`, `.pth.tar` or `.safetensors` file.

    No object in the file is run or made: a file that would run code is refused. An optimizer's state and everything
    else beside the weights is skipped. Arrays are copies.

    Args:
        path: The file.
        arch: Name of the network, if it is known; otherwise names and shapes decide.
        key: Place of the weights in the file, "model" or "ema.model"; None looks at the top and under `state_dict`,
            `model_state_dict`, `model`, `state_dict_ema`, `model_ema`.
        mmap: Whether arrays are read-only views of the file instead of copies. A program that then cuts the file off or
            writes to it, as a trainer does, ends the process or changes the arrays.

    Returns:
        The canonical weights, the network and how to build it, and the facts in the file.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete torch file, holds what would run code, or is of no known network.
        TypeError, ValueError: If `arch` is no network's name, or a tensor is not of floating point or not finite.

    Example:
        >>> import torch
        >>> from eca_multi.torch import eca_resnet18
        >>> from eca_multi.torch.checkpoints import read_checkpoint
        >>> model = eca_resnet18(num_classes=10)
        >>> torch.save({"state_dict": model.state_dict(), "epoch": 3}, "model.pth.tar")
        >>> checkpoint = read_checkpoint("model.pth.tar")
        >>> checkpoint.found.network.name, checkpoint.found.num_classes, checkpoint.facts["epoch"]
        ('eca_resnet18', 10, '3')
    """
    with open_tensors(path, key=key, mmap=mmap) as (tensors, facts):
        return take(tensors, arch, facts)


@contextmanager
def open_tensors(
    path: str | os.PathLike[str], *, key: str | None = None, mmap: bool = False
) -> Iterator[tuple[dict[str, Stored], dict[str, str]]]:
    """Give a file's tensors, which `load` reads while the file is open, and the facts in the file.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete torch file, holds what would run code, or was written to meanwhile.
    """
    with open_source(path, mmap) as source:
        yield _list(source, key)


def write_checkpoint(
    checkpoint: Checkpoint, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a network's weights to a `.pth`, `.pt`, `.pth.tar` or `.safetensors` file, whole or not at all.

    The file is written beside its final name and renamed. The names are those of `model.state_dict()`, without batch
    norm's counters `num_batches_tracked`, which canonical weights do not have and torch sets to 0 if they are missing.

    Args:
        checkpoint: As `read_checkpoint` of any framework returns.
        path: Where to write; an existing file is replaced. A `.safetensors` file holds the tensors alone, the others
            hold them under "state_dict".
        metadata: Strings to keep in the file: in the header of `.safetensors`, in the others under "eca_multi".

    Raises:
        TypeError, ValueError: If the suffix is another, or the metadata are no strings.
        OSError: If the folder is missing or cannot be written to, or the disk is full.

    Example:
        >>> import torch
        >>> from eca_multi.torch import eca_resnet18
        >>> from eca_multi.torch.checkpoints import read_checkpoint, write_checkpoint
        >>> torch.save(eca_resnet18(num_classes=10).state_dict(), "model.pth")
        >>> write_checkpoint(read_checkpoint("model.pth"), "model.pth.tar", {"source": "mine"})
        >>> state = torch.load("model.pth.tar", weights_only=True)["state_dict"]
        >>> eca_resnet18(num_classes=10).load_state_dict(state)
        <All keys matched successfully>
    """
    name = check_suffix(path, SUFFIXES)
    texts = check_metadata(metadata)
    layout = {name: _layout(name, tensor) for name, tensor in checkpoint.found.tensors.items()}
    if name.endswith(".safetensors"):
        write_safetensors(checkpoint.weights, path, {"format": "pt", **texts}, layout)
        return
    state = {key: _tensor(checkpoint.weights[name], shape) for name, (key, shape) in layout.items()}
    with whole_file(path) as file:
        try:
            torch.save({"state_dict": state, "arch": checkpoint.found.network.name, OURS: texts}, file)
        except RuntimeError as error:
            reason = error.__context__
            if isinstance(reason, OSError) or not isinstance(reason, Exception | None):
                raise reason from None  # a full disk or a signal; torch's own error hides which
            raise


def _list(source: Source, key: str | None) -> tuple[dict[str, Stored], dict[str, str]]:
    if source.read(8, 1) == b"{" and detect(source.name) == "safetensors":
        return list_safetensors(source)
    with reading(_WHAT, _REMEDY, source.name):
        file = read_file(source)
        state, place = find_state_dict(file.content, key, source.name)
    with reading(_WHAT, _REMEDY, source.name, "tensors that are not stored as numbers, "):
        tensors = {name: file.tensor(name, value) for name, value in state.items() if not name.endswith(_COUNTER)}
        check_total(tensors, source.size)
        return tensors, find_facts(file, place)


def _layout(name: str, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """Return the name and the shape of a canonical tensor in torch's state dict."""
    return native_name(name, tensor), (1, 1, *tensor.shape) if tensor.kind == "eca" else tensor.shape


def _tensor(array: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of arrays that are not writeable; nobody writes to this one
        return torch.from_numpy(np.ascontiguousarray(array)).reshape(shape)
