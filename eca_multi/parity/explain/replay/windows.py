"""Convolutions and pools of JAX in PyTorch: the axes are brought into PyTorch's order, and back."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from .program import Unknown

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_LARGEST = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEANS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
Params = Mapping[str, Any]


def convolved(params: Params, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return conv_general_dilated(x, kernel), with a bias for each channel of the result."""
    numbers, rank = params["dimension_numbers"], x.ndim - 2
    if params["batch_group_count"] != 1 or rank not in _CONVOLUTIONS:
        raise Unknown("conv_general_dilated")
    x, kernel = x.permute(numbers.lhs_spec), kernel.permute(numbers.rhs_spec)
    spread = [int(n) for n in params["lhs_dilation"]]
    out = (_plain if max(spread) == 1 else _spread_out)(params, x, kernel, bias, rank)
    return out.permute([numbers.out_spec.index(axis) for axis in range(x.ndim)])


def _plain(params: Params, x: Any, kernel: Any, bias: Any, rank: int) -> torch.Tensor:
    x, padding = _bordered(x, params["padding"])
    options = {"stride": list(params["window_strides"]), "dilation": list(params["rhs_dilation"])}
    return _CONVOLUTIONS[rank](x, kernel, bias, padding=padding, groups=params["feature_group_count"], **options)


def _spread_out(params: Params, x: Any, kernel: Any, bias: Any, rank: int) -> torch.Tensor:
    """Run a transposed convolution: the whole result, of which the padding says what is cut away or added."""
    if params["feature_group_count"] != 1 or max(params["window_strides"]) > 1:
        raise Unknown("conv_general_dilated")
    steps, holes = list(params["lhs_dilation"]), list(params["rhs_dilation"])
    spans = [hole * (size - 1) for hole, size in zip(holes, kernel.shape[2:], strict=True)]
    # The kernel of JAX is not turned, and its axes are (out, in).
    turned = kernel.transpose(0, 1).flip(list(range(2, kernel.ndim)))
    pairs = [(int(low), int(high)) for low, high in params["padding"]]
    padding = [span - low for span, (low, _) in zip(spans, pairs, strict=True)]
    more = [high - low for low, high in pairs]
    if min(padding) >= 0 and all(0 <= extra < max(step, 2) for extra, step in zip(more, steps, strict=True)):
        return _TRANSPOSED[rank](x, turned, bias, steps, padding, more, 1, holes)
    whole = _TRANSPOSED[rank](x, turned, None, steps, 0, 0, 1, holes)
    border = [n for span, (low, high) in zip(spans, pairs, strict=True) for n in (low - span, high - span)]
    cut = F.pad(whole, [n for low, high in zip(border[-2::-2], border[-1::-2], strict=True) for n in (low, high)])
    return cut if bias is None else cut + bias.reshape(-1, *[1] * rank)


def _bordered(x: torch.Tensor, padding: Any) -> tuple[torch.Tensor, list[int]]:
    """Return x and the padding that a convolution takes; one that differs before and after is added here."""
    pairs = [(int(low), int(high)) for low, high in padding]
    if all(low == high >= 0 for low, high in pairs):
        return x, [low for low, _ in pairs]
    return F.pad(x, [n for pair in reversed(pairs) for n in pair]), [0] * len(pairs)


class Pool:
    """A window over axes of x; those that it does not move along count as batch and channels."""

    def __init__(self, params: Params, rank: int) -> None:
        sizes, self._params = list(params["window_dimensions"]), params
        steps, pairs = list(params["window_strides"]), [tuple(map(int, p)) for p in params["padding"]]
        still = [i for i in range(rank) if (sizes[i], steps[i], pairs[i]) == (1, 1, (0, 0))]
        plain = all(n == 1 for name in ("base_dilation", "window_dilation") for n in params[name])
        moved = [i for i in range(rank) if i not in still]
        if len(still) < 2 or len(moved) not in _MEANS or not plain:
            raise Unknown("reduce_window")
        self._order = [*still[:1], *still[1:], *moved]
        self._batch = len(still) - 1
        self.sizes: list[int] = [sizes[i] for i in moved]
        self._steps: list[int] = [steps[i] for i in moved]
        self._pairs: list[tuple[int, ...]] = [pairs[i] for i in moved]

    def run(self, x: torch.Tensor, kind: str, **options: Any) -> torch.Tensor:
        """Return the "largest", "sum" or "mean" of each window."""
        turned, rank = x.permute(self._order), len(self.sizes)
        flat = turned.reshape(-1, *turned.shape[self._batch :])
        fill = -torch.inf if kind == "largest" else 0.0
        fits = all(a == b <= size // 2 for (a, b), size in zip(self._pairs, self.sizes, strict=True))
        padding = [a for a, _ in self._pairs] if fits else [0] * rank
        if not fits:
            flat = F.pad(flat, [n for pair in reversed(self._pairs) for n in pair], "constant", fill)
        if kind == "largest":
            out = _LARGEST[rank](flat, self.sizes, self._steps, padding)
        else:
            out = _MEANS[rank](flat, self.sizes, self._steps, padding, **options)
            out = out * math.prod(self.sizes) if kind == "sum" else out
        out = out.reshape(*turned.shape[: self._batch], *out.shape[1:])
        return out.permute([self._order.index(axis) for axis in range(x.ndim)])


def _largest(params: Params, x: torch.Tensor) -> torch.Tensor:
    return Pool(params, x.ndim).run(x, "largest")


def _sum(params: Params, x: torch.Tensor) -> torch.Tensor:
    return Pool(params, x.ndim).run(x, "sum")


WINDOWS: dict[str, Callable[..., torch.Tensor]] = {
    "conv_general_dilated": convolved,
    "reduce_window_max": _largest,
    "reduce_window_sum": _sum,
}
