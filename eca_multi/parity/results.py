"""Reading what a worker wrote."""

from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from .jobs import Outputs, Tensor
from .judging import Solution


def load(content: dict[str, Any]) -> dict[str, Tensor]:
    """Read a worker's tensors and remove their file: the photographs alone are many megabytes for each runner."""
    path = Path(content["out"])
    arrays = load_file(path)
    path.unlink()
    return {name: Tensor(array, content["dtypes"][name]) for name, array in arrays.items()}


def solution_of(results: Outputs) -> Solution:
    values = {name: tensor.values for name, tensor in results.items()}
    return {name: (value, values.get(f"{name}@error", value)) for name, value in values.items() if "@error" not in name}
