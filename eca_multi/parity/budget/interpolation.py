"""Resizing by weights that are themselves rounded: one matrix per spatial axis, for the forward and the backward pass.

A resize multiplies each axis by a matrix (out, in) of interpolation weights, and its gradient by the transposed one.
The coordinates hold no data of the caller: frameworks compute them in float32 or wider, whatever the dtype, and round
the weights to it at most once. An axis is then a sum of as many products as a row, or backwards a column, has weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from eca_multi.parity.engines._private_torch import OpOverload

from .plain_rules import Args, Mode, Rule

Kernel = Callable[[torch.Tensor], torch.Tensor]


def triangle(x: torch.Tensor) -> torch.Tensor:
    return (1 - x.abs()).clamp(min=0)


def cubic(x: torch.Tensor, a: float = -0.75) -> torch.Tensor:
    """Keys' kernel, which has a support of 2 on both sides; PyTorch's a, but for its antialiased resize (Pillow's)."""
    x = x.abs()
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))


_TAPS: dict[str, tuple[Kernel, int]] = {"linear": (triangle, 1), "cubic": (cubic, 2)}
_FILTERS: dict[str, Kernel] = {"linear": triangle, "cubic": partial(cubic, a=-0.5)}


def _step(size: int, out: int, corners: bool, scale: float | None) -> float:
    """Return the distance in the input between two neighbours of the result."""
    if corners:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1 / scale if scale else size / out


def _weights(kind: str, size: int, out: int, corners: bool, scale: float | None, like: torch.Tensor) -> torch.Tensor:
    """Return the weights (out, size) of an interpolation between neighbours; those beyond the edge go to the edge."""
    kernel, reach = _TAPS[kind]
    step, positions = _step(size, out, corners, scale), _positions(out, like)
    source = positions * step if corners else (positions + 0.5) * step - 0.5
    if kind == "linear":
        source = source.clamp(0, size - 1)
    first = source.floor().long()
    matrix = like.new_zeros(out, size)
    for tap in range(1 - reach, reach + 1):
        place = first + tap
        matrix = matrix.scatter_add(1, place.clamp(0, size - 1)[:, None], kernel(source - place)[:, None])
    return matrix


def _smooth_weights(
    kind: str, size: int, out: int, corners: bool, scale: float | None, like: torch.Tensor
) -> torch.Tensor:
    """Return the weights of an antialiased resize: a kernel as wide as the step, whose sum over the input is 1."""
    step = _step(size, out, corners, scale)
    source = (_positions(out, like) + 0.5) * step - 0.5
    weights = _FILTERS[kind]((source[:, None] - _positions(size, like)) * (1 / max(step, 1.0)))
    return weights / weights.sum(1, keepdim=True)


def _positions(count: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(count, dtype=like.dtype, device=like.device)


def _multiplied(mode: Mode, func: OpOverload, x: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply an axis by a matrix (new, old), and add the noise of each sum."""
    out = (x.movedim(axis, -1) @ matrix.mT).movedim(-1, axis).contiguous()
    size = (x.movedim(axis, -1).abs() @ matrix.abs().mT) * (matrix != 0).sum(1).sqrt()
    mode.perturb(func, out, 1.0, size.movedim(-1, axis).contiguous())
    return out


def _resized(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any], *, weights: Callable[..., Any]) -> Any:
    """Compute a resize or, where the operation is one, its gradient."""
    x, sizes, *rest = args
    backward = func._opname.endswith("backward")
    olds = rest.pop(0)[2:] if backward else x.shape[2:]
    corners, *scales = rest
    if 0 in x.shape:
        return func(*args, **kwargs)
    for axis, (size, out, scale) in enumerate(zip(olds, sizes, scales or [None] * len(sizes), strict=True), 2):
        with mode.wide(), mode:
            matrix = weights(size, out, corners, scale, x)
        mode.perturb(func, matrix)
        x = _multiplied(mode, func, x, matrix.mT if backward else matrix, axis)
    return x


def _rules() -> dict[str, Rule]:
    plain = {"upsample_linear1d": "linear", "upsample_bilinear2d": "linear", "upsample_trilinear3d": "linear"}
    smooth = {"_upsample_bilinear2d_aa": "linear", "_upsample_bicubic2d_aa": "cubic"}
    matrices = {name: partial(_weights, kind) for name, kind in {**plain, "upsample_bicubic2d": "cubic"}.items()}
    matrices |= {name: partial(_smooth_weights, kind) for name, kind in smooth.items()}
    return {name + end: partial(_resized, weights=of) for name, of in matrices.items() for end in ("", "_backward")}


RESIZES: dict[str, Rule] = _rules()
