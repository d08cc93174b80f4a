"""What some packages expect of torch and JAX and no longer find: defined when they are first imported.

torchvision refuses to be imported where its compiled library cannot be loaded, as beside another build of torch; its
networks need no operator of that library. flaim's annotations use an old name of `jax.Array`.
"""

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any


def install() -> None:
    """Put a finder in front of the import system, which defines what a package lacks and finds nothing itself."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    def __init__(self) -> None:
        self.left = {"torchvision": _define_nms, "flaim": _name_keys}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        define = self.left.pop(name, None)
        if define is not None:
            define()


def _define_nms() -> None:
    import torch

    spec = PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
            return
        except OSError:  # built for another torch
            pass
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _name_keys() -> None:
    import jax

    if not hasattr(jax.random, "KeyArray"):
        jax.random.KeyArray = jax.Array
