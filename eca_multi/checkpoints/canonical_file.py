"""Canonical weights to and from `.safetensors` files."""

import os
from collections.abc import Mapping

import numpy as np

from eca_multi._canonical import Weights, check_weights

from .safetensors import read_safetensors, write_safetensors


def save_file(
    weights: Mapping[str, np.ndarray], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write canonical weights to a `.safetensors` file, whole or not at all.

    The file is written beside its final name and renamed, so a full disk or a crash leaves the old file.

    Args:
        weights: Canonical names to floating-point arrays, as `to_canonical` returns.
        path: Where to write; an existing file is replaced.
        metadata: Strings to keep in the file's header.

    Raises:
        TypeError, ValueError: If a tensor is not a finite floating-point array; nothing is written.
        OSError: If the folder is missing or cannot be written to.

    Example:
        >>> import numpy as np
        >>> from eca_multi.checkpoints import load_file, save_file
        >>> save_file({"weight": np.array([0.1, 0.2, 0.3])}, "eca.safetensors")
        >>> load_file("eca.safetensors")["weight"].shape
        (3,)
    """
    write_safetensors(check_weights(weights), path, metadata)


def load_file(path: str | os.PathLike[str]) -> Weights:
    """Read canonical weights from a `.safetensors` file.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is no complete `.safetensors` file, or holds a tensor of a dtype that NumPy lacks.
        ValueError: If it holds a tensor that is not finite.
        TypeError: If it holds a tensor that is not float16, bfloat16 (widened to float32), float32 or float64.

    Example:
        >>> import numpy as np
        >>> from eca_multi.checkpoints import load_file, save_file
        >>> save_file({"weight": np.array([0.5, 0.25, 0.125])}, "eca.safetensors")
        >>> load_file("eca.safetensors")
        {'weight': array([0.5  , 0.25 , 0.125])}
    """
    return check_weights(read_safetensors(path)[0])
