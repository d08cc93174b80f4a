"""Run a torch network on its inputs, without ECA's package."""

import contextlib
import random
from typing import Any

import numpy as np
import torch
from torch import nn


def seed(number: int) -> None:
    """Seed all generators that a network may use: transformers' audio networks draw their masks with NumPy."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def run(model: nn.Module, inputs: Any, training: bool = False) -> list[torch.Tensor]:
    """Return all tensors of the outputs; random numbers are the same in each run."""
    seed(1)
    model.train(training)
    with contextlib.nullcontext() if training else torch.no_grad():
        return tensors(call(model, inputs))


def call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def tensors(tree: Any) -> list[torch.Tensor]:
    """All tensors in lists, tuples, dicts and the output classes of the libraries, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [tensor for value in tree.values() for tensor in tensors(value)]
    if isinstance(tree, list | tuple):
        return [tensor for value in tree for tensor in tensors(value)]
    values = getattr(tree, "__dict__", {}) if hasattr(tree, "__dataclass_fields__") else {}
    return [tensor for value in values.values() for tensor in tensors(value)]
