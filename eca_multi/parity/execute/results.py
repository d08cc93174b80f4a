"""The files with the tensors of an answer: written by a worker, read by the harness, named by group and quantity.

A group is a mutant, or the values or the errors of a solution; an evaluation has one group without a name.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from eca_multi.checkpoints import CheckpointError
from eca_multi.checkpoints.safetensors import pack_safetensors, read_safetensors
from eca_multi.parity.define.tensor import Outputs, Quantity, Solution, Tensor, parse

from .messages import Computed, Malformed

VALUES, ERRORS = "values", "errors"


def write_arrays(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Write arrays to a file.

    Raises:
        OSError: If the disk is full.
    """
    with open(path, "wb") as file:
        file.writelines(pack_safetensors(arrays))


def write(groups: Mapping[str, Outputs], path: Path) -> dict[str, str]:
    """Write an answer's tensors, and return the dtype of each by its name in the file.

    Raises:
        OSError: If there is no room.
    """
    named = {f"{group}|{q.key}": tensor for group, outputs in groups.items() for q, tensor in outputs.items()}
    write_arrays({name: tensor.values for name, tensor in named.items()}, path)
    return {name: tensor.dtype for name, tensor in named.items()}


def load(answer: Computed, path: Path) -> dict[str, Outputs]:
    """Read an answer's tensors by group and remove their file: photographs are many megabytes for each runner.

    Raises:
        Malformed: If the file does not hold the tensors of the answer.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # opening a pipe would wait for its other end
            raise Malformed(f"{path.name} must be a file")
        arrays = read_safetensors(path)[0]
        path.unlink()
    except (OSError, CheckpointError, MemoryError) as error:
        raise Malformed(f"{path.name} must hold tensors: {type(error).__name__}: {error}") from error
    if set(arrays) != set(answer.dtypes):
        raise Malformed(f"{path.name} must hold the {len(answer.dtypes)} tensors of its message. It has {len(arrays)}.")
    if wrong := [name for name, array in arrays.items() if array.dtype.kind not in "biuf"]:
        raise Malformed(f"{path.name} must hold real numbers. Received: {arrays[wrong[0]].dtype} for {wrong[0]!r}.")
    groups: dict[str, Outputs] = {}
    for group, quantity, name in _parsed(arrays):
        groups.setdefault(group, {})[quantity] = Tensor(arrays[name], answer.dtypes[name])
    return groups


def load_outputs(answer: Computed, path: Path) -> Outputs:
    """Read the tensors of an evaluation, a round trip or a runner's training."""
    return load(answer, path).get("", {})


def load_solution(answer: Computed, path: Path) -> Solution:
    """Read the reference's values, each with its error; a value without one is exact.

    Raises:
        Malformed: If the file does not hold the tensors of the answer, or an error is not of its value's shape.
    """
    groups = load(answer, path)
    values, errors = (
        {quantity: tensor.values for quantity, tensor in groups.get(group, {}).items()} for group in (VALUES, ERRORS)
    )
    solution = {q: (value, errors.get(q, np.zeros_like(value))) for q, value in values.items()}
    for quantity, (value, error) in solution.items():
        if value.shape != error.shape:
            raise Malformed(
                f"the error of {quantity.label} must have its shape, {value.shape}. Received: {error.shape}."
            )
    return solution


def _parsed(names: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Quantity, str]]:
    for name in names:
        group, _, key = name.partition("|")
        try:
            yield group, parse(key), name
        except ValueError as error:
            raise Malformed(f"a tensor must have a quantity for its name. Received: {name!r:.200}.") from error
