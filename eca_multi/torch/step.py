"""ECA along time, step by step: the causal mean carried from one block of positions to the next."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from eca_multi._errors import check_channel_axis, check_gate, check_padding
from eca_multi._pooling import check_pooling, check_state, check_time

from ._tensor_lines import Gate, Shapes, accumulator, counts, gated, sums_of
from .functional import read_shapes, require_floating, require_mask, require_residual


class ECAState(NamedTuple):
    """What a stream carries: the sums of all positions so far, and how many they are, each as a pair high + low.

    total, total_low: (N, C, *kept), the kept axes without the causal one.
    count, count_low: (N, *kept); the mask may count other positions in each sample.

    Example:
        >>> import torch
        >>> from eca_multi.torch import ECAState, eca_step
        >>> y, state = eca_step(torch.ones(2, 8, 3), torch.ones(1, 1, 3), causal_axis=2)
        >>> state.count
        tensor([3., 3.])
        >>> ECAState.start((2, 8, 3), causal_axis=2).count
        tensor([0., 0.])
    """

    total: torch.Tensor
    total_low: torch.Tensor
    count: torch.Tensor  # type: ignore[assignment]  # the field hides tuple's method
    count_low: torch.Tensor

    @classmethod
    def start(
        cls,
        x: torch.Tensor | Sequence[int],
        *,
        causal_axis: int,
        channel_axis: int = 1,
        pool_axes: int | Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> "ECAState":
        """Return the state before the first position.

        Args:
            x: A block of the stream, or its shape alone; the sums are on the device of a block.
            causal_axis, channel_axis, pool_axes: As in `eca_step`.
            dtype: Of the sums. None takes float64 where x is of it, else float32.

        Example:
            >>> from eca_multi.torch import ECAState
            >>> ECAState.start((2, 8, 1), causal_axis=2).total.shape
            torch.Size([2, 8])
        """
        shape = tuple(x.shape) if isinstance(x, torch.Tensor) else tuple(x)
        axis = check_channel_axis(channel_axis, shape)
        pooling = check_pooling(pool_axes, check_time(causal_axis), axis, shape)
        device = x.device if isinstance(x, torch.Tensor) else None
        if dtype is None:
            dtype = torch.promote_types(x.dtype, torch.float32) if isinstance(x, torch.Tensor) else torch.float32
        kept = tuple(shape[i] for i in pooling.kept if i != pooling.causal)
        total = torch.zeros((shape[0], shape[axis], *kept), dtype=dtype, device=device)
        count = torch.zeros((shape[0], *kept), dtype=dtype, device=device)
        return cls(total, total, count, count)


def eca_step(
    x: torch.Tensor,
    weight: torch.Tensor,
    state: ECAState | None = None,
    *,
    causal_axis: int,
    padding: str = "zeros",
    gate: Gate = "sigmoid",
    channel_axis: int = 1,
    pool_axes: int | Sequence[int] | None = None,
    mask: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ECAState]:
    """Gate the next positions of a stream as `eca` with `causal_axis` gates them in the whole sequence.

    Args:
        x: The next block, one position along `causal_axis` or more; else as in `eca`.
        weight, padding, gate, channel_axis, pool_axes, mask, residual: As in `eca`.
        state: What the call before returned; None before the first one.
        causal_axis: The axis of time.

    Returns:
        (y, state): y of x's shape and dtype, and the state for the next block, whatever its length.

    Raises:
        TypeError, ValueError: As listed in docs/errors.md.

    Example:
        >>> import torch
        >>> from eca_multi.torch import eca, eca_step
        >>> x, weight = torch.arange(40.0).reshape(1, 8, 5), torch.ones(1, 1, 3)
        >>> y, state = eca_step(x[..., :3], weight, causal_axis=2)
        >>> last, state = eca_step(x[..., 3:], weight, state, causal_axis=2)
        >>> torch.allclose(last, eca(x, weight, causal_axis=2)[..., 3:])
        True

    Source: the running mean of docs/sequences.md; sums by Knuth's TwoSum, The Art of Computer Programming 2, 4.2.2.
    """
    check_padding(padding)
    check_gate(gate)
    require_floating("x", x)
    require_floating("weight", weight)
    axis = check_channel_axis(channel_axis, x.shape)
    pooling = check_pooling(pool_axes, check_time(causal_axis), axis, x.shape)
    shapes = read_shapes(x.shape, weight.shape, axis, padding, None, pool_axes, causal_axis)
    if residual is not None:
        require_residual(residual, x)
    acc = accumulator(x, weight)
    if state is None:
        state = ECAState.start(x, causal_axis=causal_axis, channel_axis=axis, pool_axes=pool_axes, dtype=acc)
    check_state(tuple(state.total.shape), tuple(state.count.shape), x.shape, axis, pooling)
    total, total_low, count, count_low = (part.to(acc) for part in state)

    valid = None
    if mask is None:
        sums = sums_of(x, shapes, acc)
        added = counts(sums, _time(shapes), math.prod([x.shape[i] for i in shapes.axes]))
        added = added.expand(x.shape[0], 1, *sums.shape[2:])
    else:
        require_mask(mask, axis, x)
        valid = mask.expand(*x.shape[:axis], *x.shape[axis + 1 :]).unsqueeze(axis)
        sums, added = sums_of(torch.where(valid, x, 0), shapes, acc), sums_of(valid, shapes, acc)
    so_far = _before(total, shapes) + (_before(total_low, shapes) + sums)
    counted = _before(count.unsqueeze(1), shapes) + (_before(count_low.unsqueeze(1), shapes) + added)
    pooled = so_far / counted.clamp(min=1)

    y, _ = gated(x, pooled, weight, padding, gate, shapes, valid, residual=residual)
    total, total_low = _add(total, total_low, _last(sums, shapes))
    count, count_low = _add(count, count_low, _last(added, shapes)[:, 0])
    return y, ECAState(total, total_low, count, count_low)


def _time(shapes: Shapes) -> int:
    return shapes.running or 0


def _before(a: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    """Return (N, C, *kept) with one position along the causal axis."""
    return a.unsqueeze(_time(shapes))


def _last(a: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    return a.select(_time(shapes), -1)


def _add(high: torch.Tensor, low: torch.Tensor, term: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Add a term to the number high + low; the new low part holds what the sum rounds off."""
    total = high + term
    seen = total - high
    lost = (high - (total - seen)) + (term - seen)
    low = low + lost
    # Normalised, so that the low part stays below half an ulp of the high one.
    return total + low, low - ((total + low) - total)
