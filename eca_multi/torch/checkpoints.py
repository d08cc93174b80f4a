"""Checkpoints that torch wrote, read without running anything that is in them; and written."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from eca_multi._checkpoints import (
    Checkpoint,
    CheckpointError,
    check_metadata,
    detect,
    read_kind,
    take,
    write_safetensors,
)
from eca_multi._files import whole_file
from eca_multi._networks import Tensor

from ._network_weights import native_name
from ._restricted_load import array_of, incomplete, load

# Where training scripts keep the weights beside an optimizer's state, in the order in which they are looked for.
KEYS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
SUFFIXES = (".pth", ".pt", ".pth.tar", ".safetensors")
_COUNTER = "num_batches_tracked"
OURS = "eca_multi"  # the key in a file under which stands what is said of the weights


def read_checkpoint(path: str | os.PathLike[str], arch: str | None = None, *, key: str | None = None) -> Checkpoint:
    """Read the weights of a network from a `.pth`, `.pt`, `.pth.tar` or `.safetensors` file.

    The file is read with `weights_only=True`: what would run code is refused. An optimizer's state and anything else
    beside the weights is left alone. Arrays are views of the file, but in the format before torch 1.6.

    Args:
        path: The file.
        arch: Name of the network, where it is known; otherwise it is found by names and shapes.
        key: Where in the file the weights are; None looks at the top and under `state_dict`, `model_state_dict`,
            `model`, `state_dict_ema`, `model_ema`.

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
    name = os.fspath(path)
    with open(path, "rb") as file:  # a missing file is said as such
        start = file.read(9)
    if start[8:] == b"{" and detect(path) == "safetensors":
        return read_kind("safetensors", path, arch)
    content, data = load(name)
    state, place = _state_dict(content, key, name)
    try:
        arrays = {entry: array_of(value, data) for entry, value in state.items() if not entry.endswith(_COUNTER)}
        facts = _facts(content, place, data)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:  # without values, sparse, out of the file
        raise incomplete(name, f"tensors that are not stored as numbers, {error}") from error
    return take(arrays, arch, facts)


def _state_dict(content: Any, key: str | None, name: str) -> tuple[Mapping[str, torch.Tensor], str]:
    places = (key,) if key is not None else ("", *KEYS)
    for place in places:
        inner = content if place == "" else content.get(place) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping) and inner and all(_is_entry(*item) for item in inner.items()):
            return inner, place
    held = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise CheckpointError(
        f"the checkpoint must hold a state dict of tensors at {' or '.join(repr(place) for place in places)}. "
        f"Received: {name!r} with {held}. Pass key with the name under which it is."
    )


def _is_entry(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, torch.Tensor)


def _facts(content: Mapping[str, Any], key: str, data: np.ndarray | None) -> dict[str, str]:
    """What stands beside the weights in one number or word: epoch, architecture, accuracy; and what we wrote."""
    facts = {"key": key} if key else {}
    if key:
        for name, value in content.items():
            if isinstance(value, torch.Tensor) and value.numel() == 1:
                value = array_of(value, data).item()
            if isinstance(value, str | int | float) and len(str(value)) <= 200:
                facts[str(name)] = str(value)
        ours = content.get(OURS)
        facts |= {str(name): str(text) for name, text in ours.items()} if isinstance(ours, Mapping) else {}
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
