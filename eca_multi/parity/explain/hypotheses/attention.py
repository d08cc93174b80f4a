"""Faults in attention: its scale, its mask, and the order of its heads."""

import math
from collections.abc import Callable
from typing import Any

import torch

from eca_multi.parity.mutants.mode import Call, Change

from .hypothesis import Hypothesis, numbers, on, with_argument

_ATTENTION = "scaled_dot_product_attention"


def _scaled(scale: Callable[[int], float]) -> Change:
    """Give the attention another scale; `scale` takes the size of a head."""

    def change(call: Call) -> Any:
        size = call.x.shape[-1]
        now = call.kwargs.get("scale")
        now = size**-0.5 if now is None else now
        return (
            NotImplemented
            if math.isclose(scale(size), now)
            else call.func(*call.args, **{**call.kwargs, "scale": scale(size)})
        )

    return change


def _factor(way: Callable[[float], float]) -> Change:
    """Change the number that a tensor is multiplied or divided by."""

    def change(call: Call) -> Any:
        for index, number in numbers(call):
            if number not in (0.0, 1.0, -1.0) and math.isfinite(number):
                return with_argument(call, index, "other", way(number))
        return NotImplemented

    return change


def _mask(way: Callable[[torch.Tensor], torch.Tensor | None]) -> Change:
    def change(call: Call) -> Any:
        mask = call.argument(3, "attn_mask")
        if mask is None:
            return NotImplemented
        other = way(mask)
        return NotImplemented if other is mask else with_argument(call, 3, "attn_mask", other)

    return change


def _inverted(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype == torch.bool:
        return ~mask
    if not torch.isneginf(mask).any():
        return -mask
    return torch.zeros_like(mask).masked_fill(~torch.isneginf(mask), -torch.inf)


def _added(mask: torch.Tensor) -> torch.Tensor:
    """Add the mask as ones and zeros: nothing is left out."""
    if mask.dtype == torch.bool:
        return mask.to(torch.float64)
    return torch.isneginf(mask).to(mask.dtype) if torch.isneginf(mask).any() else mask


def _not_causal(call: Call) -> Any:
    return with_argument(call, 5, "is_causal", False) if call.argument(5, "is_causal", False) else NotImplemented


def _causal_with(mask: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Put another mask in the place of the causal one."""

    def change(call: Call) -> Any:
        if not call.argument(5, "is_causal", False):
            return NotImplemented
        ones = torch.ones(call.x.shape[-2], call.args[1].shape[-2], dtype=torch.bool)
        kept = {name: value for name, value in call.kwargs.items() if name == "scale"}
        return call.func(*call.args[:3], attn_mask=mask(ones), **kept)

    return change


def _diagonal(step: int) -> Change:
    def change(call: Call) -> Any:
        return with_argument(call, 1, "diagonal", call.argument(1, "diagonal", 0) + step)

    return change


def _causal(call: Call) -> Any:
    if call.argument(5, "is_causal", False) or call.argument(3, "attn_mask") is not None:
        return NotImplemented
    return with_argument(call, 5, "is_causal", True)


def _fill(kind: str) -> Change:
    """Change what `masked_fill` and `where` select, where they fill with a number."""

    def change(call: Call) -> Any:
        is_where = call.name == "where"
        if len(call.args) < 3 or (not is_where and call.x.dtype == torch.bool):
            return NotImplemented
        mask, x, value = call.args if is_where else (call.args[1], call.args[0], call.args[2])
        if not (isinstance(mask, torch.Tensor) and isinstance(x, torch.Tensor)):
            return NotImplemented
        if kind == "inverted":
            return call.func(~mask, *call.args[1:]) if is_where else call.func(x, ~mask, value)
        if not x.is_floating_point():
            return NotImplemented
        return x + mask.to(x.dtype) if kind == "added" else x.clone()

    return change


def _sizes(call: Call) -> tuple[int, ...] | None:
    """Return the shape that a call of view, reshape or unflatten gives its floating-point tensor."""
    if not call.x.is_floating_point():
        return None
    shape = call.func(*call.args, **call.kwargs).shape
    return tuple(shape)


def _split(call: Call) -> Any:
    """Split an axis as (size, heads) instead of (heads, size)."""
    shape, before = _sizes(call), tuple(call.x.shape)
    if shape is None or not before or len(shape) < 2:
        return NotImplemented
    size, whole = shape[-1], before[-1]
    # (..., heads * size) to (..., heads, size), also with more before the heads, or the batch in one axis with them.
    heads = shape[-2] if whole and whole % max(shape[-2] * size, 1) == 0 else whole // max(size, 1)
    if heads < 2 or size < 2 or whole % (heads * size):
        return NotImplemented
    return call.x.unflatten(-1, (-1, size, heads)).transpose(-1, -2).reshape(shape)


def _merged(call: Call) -> Any:
    """Merge (heads, size) into one axis as if it were (size, heads)."""
    shape, before = _sizes(call), tuple(call.x.shape)
    if shape is None or len(before) < 2 or shape[-1] % before[-1]:
        return NotImplemented
    heads, size = shape[-1] // before[-1], before[-1]
    if heads < 2 or size < 2:
        return NotImplemented
    return call.plain().unflatten(-1, (heads, size)).transpose(-1, -2).reshape(shape)


def _both(call: Call) -> Any:
    result = _split(call)
    return _merged(call) if result is NotImplemented else result


def _inner_parts(call: Call) -> Any:
    """Split an axis as (heads, 3, size) instead of (3, heads, size)."""
    shape, before = _sizes(call), tuple(call.x.shape)
    if shape is None or len(shape) < 4 or shape[-3] not in (2, 3) or before[-1] != math.prod(shape[-3:]):
        return NotImplemented
    parts, heads, size = shape[-3:]
    return call.x.unflatten(-1, (heads, parts, size)).transpose(-2, -3)


_MERGES = ("view", "reshape", "unflatten", "flatten")
_VIEWS = ("view", "reshape", "unflatten")
FACTOR = "a constant factor"  # the beginning of hypotheses about any number
ATTENTION = (
    Hypothesis("the scale 1/sqrt(d) is missing", {_ATTENTION: _scaled(lambda size: 1.0)}),
    Hypothesis("the scale is 1/d", {_ATTENTION: _scaled(lambda size: 1.0 / size)}),
    Hypothesis("the scale 1/sqrt(d) comes twice", {_ATTENTION: _scaled(lambda size: size**-1.0)}),
    Hypothesis("the scale is sqrt(d)", {_ATTENTION: _scaled(lambda size: size**0.5)}),
    Hypothesis(f"{FACTOR} (such as 1/sqrt(d)) is missing", on(("mul", "div"), _factor(lambda n: 1.0))),
    Hypothesis(f"{FACTOR} is its inverse", on(("mul", "div"), _factor(lambda n: 1.0 / n))),
    Hypothesis(f"{FACTOR} comes twice", on(("mul", "div"), _factor(lambda n: n * n))),
    Hypothesis(
        "the mask is inverted", {_ATTENTION: _mask(_inverted), **on(("masked_fill", "where"), _fill("inverted"))}
    ),
    Hypothesis(
        "the mask is added as ones", {_ATTENTION: _mask(_added), **on(("masked_fill", "where"), _fill("added"))}
    ),
    Hypothesis(
        "the mask is ignored", {_ATTENTION: _mask(lambda m: None), **on(("masked_fill", "where"), _fill("ignored"))}
    ),
    Hypothesis("the mask is inverted", {_ATTENTION: _causal_with(lambda ones: ones.triu())}),
    *(
        Hypothesis(
            f"the mask is shifted by {step}",
            {
                _ATTENTION: _causal_with(lambda ones, step=step: ones.tril(step)),  # type: ignore[misc]  # a default
                **on(("tril", "triu"), _diagonal(step)),
            },
        )
        for step in (1, -1)
    ),
    Hypothesis("the causal mask is missing", {_ATTENTION: _not_causal}),
    Hypothesis("attention is causal", {_ATTENTION: _causal}),
    # Not all at once: a layer may also split a packed projection into query, key and value by the one of the two.
    Hypothesis("the heads are split in the order (size, heads)", on(("view", "reshape"), _split)),
    Hypothesis("the heads are split in the order (size, heads)", {"unflatten": _split}),
    Hypothesis("the heads are merged in the order (size, heads), or halves interleaved", on(_MERGES, _merged)),
    Hypothesis("the heads are split and merged in the order (size, heads)", on(("view", "reshape", "flatten"), _both)),
    Hypothesis("query, key and value are packed head by head", on(_VIEWS, _inner_parts)),
)
