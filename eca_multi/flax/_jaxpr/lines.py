"""The line of a network's code that made a value of a jaxpr."""

import os
import sys
from pathlib import Path
from typing import Any

import flax
import jax

NOT_THE_NETWORKS = tuple(f"{Path(str(package.__file__)).parent}{os.sep}" for package in (jax, flax))


def line_of(source: Any) -> str:
    """Return the innermost line that is neither JAX's nor Flax's, as "package.module:line"; "" if none is known.

    `source` is the `source_info` of an equation.
    """
    traceback = getattr(source, "traceback", None)
    for frame in traceback.frames if traceback is not None else ():
        if not frame.file_name.startswith(NOT_THE_NETWORKS):
            return f"{_module(frame.file_name)}:{frame.line_num}"
    return ""


def _module(file: str) -> str:
    """Return the name of the imported module that a file holds, else the file's own name."""
    names = (name for name, module in list(sys.modules.items()) if vars(module).get("__file__") == file)
    return next(names, Path(file).stem)
