"""Entries of a state, and the marks of the tests that load one."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.loading_nets import Loaded, numpy, with_eca

layers = pytest.mark.only("torch", "keras", "linen", "nnx")
parts = pytest.mark.parametrize("part", ["base", "eca"])
OF_JAX = ("keras", "linen", "nnx")


def tensor(kind: str, array: np.ndarray) -> Any:
    """What the framework's own state holds."""
    return torch.from_numpy(np.asarray(array, order="C")) if kind == "torch" else array


def last_float(state: dict[Any, Any]) -> Any:
    """The last entry that a network trains: of floating point, and no mask."""
    found = [path for path, value in state.items() if numpy(value).dtype == np.float32 and "mask" not in str(path)]
    return found[-1]


def entry(net: Loaded, state: dict[Any, Any], name: str) -> Any:
    return next(path for path in state if name in str(path))


@cache
def nets(kind: str) -> Loaded:
    """One network for the tests that do not change it; each of them compares all of its bits."""
    return with_eca(kind)
