"""Larger inputs made of example inputs: a second size shows which axes of a tensor hang on the input's size."""

from collections.abc import Iterator
from typing import Any

import torch

from .observe import arguments


def grown(example_inputs: Any) -> Iterator[Any]:
    """Yield the inputs with the axes doubled that may be positions, the likeliest first; a network refuses the others.

    The values are repeated, so that they stay what the network expects. Axis 0 is the batch.
    """
    args, kwargs = arguments(example_inputs)
    rank = max((leaf.ndim for leaf in (*args, *kwargs.values()) if isinstance(leaf, torch.Tensor)), default=0)
    guesses = [(1,)] if rank == 2 else [tuple(range(2, rank)), tuple(range(1, rank - 1))]
    for axes in guesses if rank > 1 else ():
        larger = tuple(_doubled(leaf, rank, axes) for leaf in args)
        yield larger or {name: _doubled(leaf, rank, axes) for name, leaf in kwargs.items()}


def _doubled(leaf: Any, rank: int, axes: tuple[int, ...]) -> Any:
    if not isinstance(leaf, torch.Tensor) or leaf.ndim != rank:
        return leaf
    return leaf.repeat([2 if axis in axes else 1 for axis in range(rank)])
