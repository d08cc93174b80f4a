"""The files with the tensors of an answer: a worker writes them, the harness reads them.

A tensor's name there gives its group and quantity. A group is a mutant, or the values or the errors of a solution; an
evaluation has one group without a name.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eca_multi.checkpoints import CheckpointError
from eca_multi.checkpoints.safetensors import pack_safetensors, read_safetensors
from eca_multi.parity.define.tensor import Outputs, Solution, Tensor, parse

from .messages import Computed, Malformed

VALUES, ERRORS = "values", "errors"


def write_arrays(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Write arrays to a file; raise OSError if the disk is full."""
    with open(path, "wb") as file:
        file.writelines(pack_safetensors(arrays))


def write(groups: Mapping[str, Outputs], path: Path) -> dict[str, str]:
    """Write an answer's tensors, and return the dtype of each by its name in the file."""
    named = {f"{group}|{q.key}": tensor for group, outputs in groups.items() for q, tensor in outputs.items()}
    write_arrays({name: tensor.values for name, tensor in named.items()}, path)
    return {name: tensor.dtype for name, tensor in named.items()}


@dataclass(frozen=True)
class Delivery:
    """An answer and the file with its tensors. Read it once: reading removes the file, of up to many megabytes.

    Each way to read raises Malformed if the file does not hold the tensors of the answer.
    """

    answer: Computed
    path: Path

    def outputs(self) -> Outputs:
        """Read the tensors of an evaluation, a round trip or a runner's training."""
        return self.by_group().get("", {})

    def solution(self) -> Solution:
        """Read the reference's values, each with its error; a value without one is exact."""
        groups = self.by_group()
        values, errors = ({q: t.values for q, t in groups.get(group, {}).items()} for group in (VALUES, ERRORS))
        solution = {q: (value, errors.get(q, np.zeros_like(value))) for q, value in values.items()}
        for quantity, (value, error) in solution.items():
            if value.shape != error.shape:
                raise Malformed(
                    f"the error of {quantity.label} must have its shape, {value.shape}. Received: {error.shape}."
                )
        return solution

    def by_group(self) -> dict[str, Outputs]:
        """Read the tensors of each group."""
        path, dtypes = self.path, self.answer.dtypes
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):  # opening a pipe would wait for its other end
                raise Malformed(f"{path.name} must be a file")
            arrays = read_safetensors(path)[0]
            path.unlink()
        except (OSError, CheckpointError, MemoryError) as error:
            raise Malformed(f"{path.name} must hold tensors: {type(error).__name__}: {error}") from error
        if set(arrays) != set(dtypes):
            raise Malformed(f"{path.name} must hold the {len(dtypes)} tensors of its message. It has {len(arrays)}.")
        groups: dict[str, Outputs] = {}
        for name, array in arrays.items():
            if array.dtype.kind not in "biuf":
                raise Malformed(f"{path.name} must hold real numbers. Received: {array.dtype} for {name!r}.")
            group, _, key = name.partition("|")
            try:
                groups.setdefault(group, {})[parse(key)] = Tensor(array, dtypes[name])
            except ValueError as error:
                raise Malformed(f"a tensor must have a quantity for its name. Received: {name!r:.200}.") from error
        return groups
