"""The inputs of two models in a file, which the commands take."""

import os
import zipfile
from typing import Any

import numpy as np

from eca_multi.parity.define.axes import SpecError


def read_inputs(path: str | os.PathLike[str]) -> Any:
    """Return the only array of a file, or a tuple of arrays without names, or a dict of those with names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file) if isinstance(file, np.lib.npyio.NpzFile) else {"": file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "a file of another kind"
        raise SpecError(f"the inputs must be an .npz file of arrays. Received: {path}: {why}.") from error
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    return tuple(arrays.values()) if all(name.startswith("arr_") for name in arrays) else arrays
