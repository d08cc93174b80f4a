"""Write a checkpoint for any framework; and the checks of a target that all writers share."""

import os
from collections.abc import Mapping
from importlib import import_module

from .read import MODULES
from .safetensors import write_safetensors
from .take import Checkpoint

TARGETS = (*MODULES, "canonical")


def write_checkpoint(
    to: str, checkpoint: Checkpoint, path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> None:
    """Write weights for the framework `to`, or "canonical" to a `.safetensors` file, whole or not at all."""
    if to == "canonical":
        write_safetensors(checkpoint.weights, path, metadata)
    else:
        import_module(MODULES[to]).write_checkpoint(checkpoint, path, metadata)


def check_suffix(path: str | os.PathLike[str], suffixes: tuple[str, ...], instead: str = "") -> str:
    """Return the path as text if it ends in one of the suffixes; or raise ValueError. `instead` says what else fits."""
    name = os.fsdecode(path)
    if not name.endswith(suffixes):
        expected = " or ".join(filter(None, [", ".join(suffixes[:-1]), suffixes[-1]])) + instead
        raise ValueError(f"path must end in {expected}. Received: {name!r}. Rename it.")
    return name


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return the texts that a file keeps beside the weights; raise TypeError if they are no strings by name."""
    texts = dict(metadata or {})
    if not all(isinstance(text, str) for item in texts.items() for text in item):
        raise TypeError(f"metadata must be strings by name. Received: {texts!r}. Convert them with str.")
    return texts
