"""The files between the harness and its workers."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eca_multi.checkpoints import CheckpointError
from eca_multi.checkpoints.safetensors import pack_safetensors, read_safetensors
from eca_multi.parity.define.job import Outputs, Tensor
from eca_multi.parity.judge.verdicts import Solution

from .messages import Computed, Malformed


def write_arrays(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Write arrays to a file.

    Raises:
        OSError: If the disk is full.
    """
    with open(path, "wb") as file:
        file.writelines(pack_safetensors(arrays))


def load(answer: Computed, path: Path) -> dict[str, Tensor]:
    """Read a worker's tensors and remove their file: the photographs alone are many megabytes for each runner.

    Raises:
        Malformed: If the file is not what the answer says.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # to open a pipe would be to wait for its other end
            raise Malformed(f"{path.name} must be a file")
        arrays = read_safetensors(path)[0]
        path.unlink()
    except (OSError, CheckpointError, MemoryError) as error:
        raise Malformed(f"{path.name} must hold tensors: {type(error).__name__}: {error}") from error
    if set(arrays) != set(answer.dtypes):
        raise Malformed(f"{path.name} must hold the {len(answer.dtypes)} tensors of its message. It has {len(arrays)}.")
    if wrong := [name for name, array in arrays.items() if array.dtype.kind not in "biuf"]:
        raise Malformed(f"{path.name} must hold real numbers. Received: {arrays[wrong[0]].dtype} for {wrong[0]!r}.")
    return {name: Tensor(array, answer.dtypes[name]) for name, array in arrays.items()}


def solution_of(results: Outputs) -> Solution:
    """Take a reference's tensors apart: each with its error.

    Raises:
        Malformed: If an error is not of its tensor's shape.
    """
    values = {name: tensor.values for name, tensor in results.items()}
    names = [name for name in values if "@error" not in name]
    found = {name: (values[name], values.get(f"{name}@error", values[name])) for name in names}
    for name, (value, error) in found.items():
        if value.shape != error.shape:
            raise Malformed(f"{name}@error must have the shape of {name}, {value.shape}. Received: {error.shape}.")
    return found
