"""The files between the harness and its workers."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .jobs import Outputs, Tensor
from .judging import Solution


def write_arrays(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Write arrays to a file.

    Raises:
        OSError: If there is no room; safetensors has an error of its own for that.
    """
    try:
        # Not as they come: a transposed view would be stored by its memory.
        save_file({name: np.require(array, requirements="C") for name, array in arrays.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{os.fspath(path)} could not be written: {error}") from error


def load(content: dict[str, Any]) -> dict[str, Tensor]:
    """Read a worker's tensors and remove their file: the photographs alone are many megabytes for each runner."""
    path = Path(content["out"])
    arrays = load_file(path)
    path.unlink()
    return {name: Tensor(array, content["dtypes"][name]) for name, array in arrays.items()}


def solution_of(results: Outputs) -> Solution:
    values = {name: tensor.values for name, tensor in results.items()}
    return {name: (value, values.get(f"{name}@error", value)) for name, value in values.items() if "@error" not in name}
