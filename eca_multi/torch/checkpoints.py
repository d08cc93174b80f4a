"""Checkpoints that torch wrote, read without running anything that is in them; and written."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from eca_multi._files.file import whole_file
from eca_multi._parsing import parsing
from eca_multi.checkpoints import (
    Checkpoint,
    CheckpointError,
    Source,
    Stored,
    check_metadata,
    check_total,
    detect,
    list_safetensors,
    open_source,
    take,
    write_safetensors,
)
from eca_multi.networks import Tensor

from ._network_weights import native_name
from ._pickled import Other, Pickled
from ._restricted_load import TorchFile, incomplete, open_file, state_dict_is

# Where training scripts keep the weights beside an optimizer's state, in the order in which they are looked for.
KEYS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
SUFFIXES = (".pth", ".pt", ".pth.tar", ".safetensors")
_SHOWN = 20  # of a file's keys in a message
_COUNTER = "num_batches_tracked"
OURS = "eca_multi"  # the key in a file under which stands what is said of the weights


def read_checkpoint(
    path: str | os.PathLike[str], arch: str | None = None, *, key: str | None = None, mmap: bool = False
) -> Checkpoint:
    """Read the weights of a network from a `.pth`, `.pt`, `.pth.tar` or `.safetensors` file.

    Nothing in the file is run or made: what would run code is refused. An optimizer's state and anything else beside
    the weights is left alone. Arrays are copies.

    Args:
        path: The file.
        arch: Name of the network, where it is known; otherwise it is found by names and shapes.
        key: Where in the file the weights are; None looks at the top and under `state_dict`, `model_state_dict`,
            `model`, `state_dict_ema`, `model_ema`.
        mmap: Whether arrays are read-only views of the file instead of copies. What then cuts the file off or writes
            to it, as a trainer does, ends the process or changes the arrays.

    Returns:
        The canonical weights, the network and how it must be built, and what the file says of itself.

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
    """Give a file's tensors, each to be read while the file is open, and what it says of itself.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete torch file, holds what would run code, or was written to meanwhile.
    """
    with open_source(path, mmap) as source:
        yield _tensors(source, key)


def _tensors(source: Source, key: str | None) -> tuple[dict[str, Stored], dict[str, str]]:
    if source.read(8, 1) == b"{" and detect(source.name) == "safetensors":
        return list_safetensors(source)
    file = open_file(source)
    state, place = _state_dict(file.content, key, source.name)
    with parsing(lambda reason: incomplete(source.name, f"tensors that are not stored as numbers, {reason}")):
        tensors = {name: file.tensor(name, value) for name, value in state.items() if not name.endswith(_COUNTER)}
        check_total(tensors, source.size)
        return tensors, _facts(file, place)


def _state_dict(content: Any, key: str | None, name: str) -> tuple[dict[str, Any], str]:
    places = (key,) if key is not None else ("", *KEYS)
    for place in places:
        inner = content if place == "" else content.get(place) if isinstance(content, dict) else None
        if isinstance(inner, dict) and state_dict_is(inner):
            return inner, place
    held = sorted(map(str, list(content)[:_SHOWN])) if isinstance(content, dict) else type(content).__name__
    raise CheckpointError(
        f"the checkpoint must hold a state dict of tensors at {' or '.join(repr(place) for place in places)}. "
        f"Received: {name!r} with {held}. Pass key with the name under which it is."
    )


def _facts(file: TorchFile, key: str) -> dict[str, str]:
    """What stands beside the weights in one number or word: epoch, architecture, accuracy; and what we wrote."""
    facts = {"key": key} if key else {}
    if key:
        for name, value in file.content.items():
            if isinstance(name, Other):  # a key that is no text and no number
                continue
            if isinstance(value, Pickled) and value.shape in ((), (1,)):
                value = file.tensor(str(name), value).load().item()
            if isinstance(value, str | int | float) and len(str(value)) <= 200:
                facts[str(name)] = str(value)
        ours = file.content.get(OURS)
        if isinstance(ours, dict):
            facts |= {name: text for name, text in ours.items() if isinstance(name, str) and isinstance(text, str)}
    return facts


def write_checkpoint(
    checkpoint: Checkpoint, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a network's weights to a `.pth`, `.pt`, `.pth.tar` or `.safetensors` file, whole or not at all.

    The file is written beside its final name and renamed. The names are those of `model.state_dict()`, without the
    counters of batches, which torch sets to 0 when they are missing.

    Args:
        checkpoint: As `read_checkpoint` of any framework returns.
        path: Where to write; an existing file is replaced. In `.safetensors` the tensors stand by themselves, in the
            others under "state_dict".
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
    name = os.fsdecode(path)
    if not name.endswith(SUFFIXES):
        raise ValueError(f"path must end in {', '.join(SUFFIXES)}. Received: {name!r}. Rename it.")
    texts = check_metadata(metadata)
    stored = {name: _stored(name, tensor) for name, tensor in checkpoint.found.tensors.items()}
    if name.endswith(".safetensors"):
        write_safetensors(checkpoint.weights, path, {"format": "pt", **texts}, stored)
        return
    state = {key: _tensor(checkpoint.weights[name], shape) for name, (key, shape) in stored.items()}
    with whole_file(path) as file:
        try:
            torch.save({"state_dict": state, "arch": checkpoint.found.network.name, OURS: texts}, file)
        except RuntimeError as error:
            reason = error.__context__
            if isinstance(reason, OSError) or not isinstance(reason, Exception | None):
                raise reason from None  # a full disk or a signal, of which torch says only that it could not write
            raise


def _stored(name: str, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return native_name(name, tensor), (1, 1, *tensor.shape) if tensor.kind == "eca" else tensor.shape


def _tensor(array: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about arrays that cannot be written to, which nobody does
        return torch.from_numpy(np.ascontiguousarray(array)).reshape(shape)
