"""Checkpoints that torch wrote, read without running anything that is in them."""

import argparse
import os
import re
import warnings
from collections.abc import Mapping
from pickle import UnpicklingError
from pickletools import genops
from typing import Any

import numpy as np
import torch

from eca_multi._checkpoints import Checkpoint, CheckpointError, take

# Where training scripts keep the weights beside an optimizer's state, in the order in which they are looked for.
KEYS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")


def read_checkpoint(path: str | os.PathLike[str], arch: str | None = None, *, key: str | None = None) -> Checkpoint:
    """Read the weights of a network from a `.pth`, `.pt` or `.pth.tar` file.

    The file is read with `weights_only=True`: what would run code is refused. An optimizer's state and anything else
    beside the weights is left alone.

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
    content = _load(path)
    state, found_key = _state_dict(content, key, os.fspath(path))
    arrays = {name: _array(value) for name, value in state.items() if not name.endswith("num_batches_tracked")}
    return take(arrays, arch, _facts(content, found_key))


def _load(path: str | os.PathLike[str]) -> Any:
    name = os.fspath(path)
    with open(path, "rb") as file:  # a missing file is said as such
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        # A namespace of training options and NumPy's numbers hold no code and are often there.
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the format's age
            return torch.load(name, map_location="cpu", weights_only=True, mmap=zipped)
    except UnpicklingError as error:
        raise _refused(name, str(error)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as error:
        raise _incomplete(name, str(error).split(". ")[0] or type(error).__name__) from error


def _harmless() -> list[Any]:
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)}
    old = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    return [argparse.Namespace, np.dtype, *kinds, *old]


def _refused(name: str, reason: str) -> CheckpointError:
    """The error for a file that the restricted unpickler does not read: name what it would call, if it says so."""
    match = re.search(r"(?:GLOBAL|[Uu]nsupported (?:global|class)|function)[: ]+(?:GLOBAL )?(\w+(?:\.\w+)+)", reason)
    called = [match[1]] if match else _called(name)
    if called:
        return CheckpointError(
            f"path must name a file of tensors. Received: {name!r}, which would call {' and '.join(called)}. "
            "Nothing of it was run. Save the state dict instead of the model, or take a .safetensors file."
        )
    match = re.search(r"WeightsUnpickler error: (.*)", reason)
    return _incomplete(name, match[1].strip() if match else "not a file of torch's")


def _called(name: str) -> list[str]:
    """What a bare pickle names: its opcodes are listed, none is carried out."""
    found: list[str] = []
    strings: list[str] = []
    with open(name, "rb") as file:
        try:
            for opcode, argument, _ in genops(file):
                if opcode.name == "STACK_GLOBAL":
                    found.append(".".join(strings[-2:]))
                elif opcode.name == "GLOBAL":
                    found.append(str(argument).replace(" ", "."))
                elif isinstance(argument, str):
                    strings.append(argument)
        except ValueError:  # no pickle
            return []
    return sorted(set(found))


def _incomplete(name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"path must name a complete file that torch.save wrote. Received: {name!r} ({reason}). "
        "Copy the file again; a .pth.tar is not a tar archive and must not be unpacked."
    )


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


def _array(value: torch.Tensor) -> np.ndarray:
    value = value.detach()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _facts(content: Mapping[str, Any], key: str) -> dict[str, str]:
    """What stands beside the weights in one number or word: epoch, architecture, accuracy."""
    facts = {"key": key} if key else {}
    if key:
        for name, value in content.items():
            if isinstance(value, torch.Tensor) and value.numel() == 1:
                value = value.item()
            if isinstance(value, str | int | float) and len(str(value)) <= 200:
                facts[str(name)] = str(value)
    return facts
