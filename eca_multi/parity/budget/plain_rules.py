"""A rule computes an operation under rounding noise; here are its type and the simplest rules."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from eca_multi.parity.engines._private_torch import OpOverload, tree_iter

Args = tuple[Any, ...]
LOWER = (torch.float32, torch.float16, torch.bfloat16)


class Mode(Protocol):
    """The part of `RoundingNoise` that rules need; as a context it gives noise to the operations within."""

    quiet: bool
    unknown_ops: set[str]

    def perturb(
        self, func: OpOverload, out: torch.Tensor, k: float = 1.0, magnitude: torch.Tensor | None = None
    ) -> None: ...

    def wide(self) -> AbstractContextManager[None]: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *exception: Any) -> None: ...


Rule = Callable[[Mode, OpOverload, Args, dict[str, Any]], Any]


def exact(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    if func is torch.ops.aten.copy_.default and args[1].dtype == torch.float64 and args[0].dtype in LOWER:
        mode.unknown_ops.add(f"{func._schema.name} to {args[0].dtype}")
    return func(*args, **kwargs)


def rounded(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any], k: float = 1.0) -> Any:
    out = func(*args, **kwargs)
    for tensor in tensors_of(out):
        mode.perturb(func, tensor, k)
    return out


def is_float64(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float64


def tensors_of(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor))
