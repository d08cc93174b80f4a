"""Faults in the order of the parts of a projection, of a split, and of the heads of a weight."""

from itertools import permutations
from typing import Any

import torch

from eca_multi.parity.mutants.mode import Call, Change

from .hypothesis import Hypothesis, on, with_argument


def _heads_of_weight(heads: int) -> Change:
    """Split the outputs of a projection, or of three in one, as (size, heads) in the weight and not in the bias."""

    def change(call: Call) -> Any:
        weight = call.argument(1, "weight")
        rows, width = weight.shape
        if rows not in (width, 3 * width) or width % heads or width == heads:
            return NotImplemented
        other = weight.unflatten(0, (rows // width, -1, heads)).transpose(1, 2).reshape(weight.shape)
        return with_argument(call, 1, "weight", other)

    return change


def _packed_by_head(sizes: tuple[int, int]) -> Change:
    """Read a packed projection of (3, heads, size) as (heads, 3, size), or the other way round."""
    heads = sizes[0] * sizes[1] // 3

    def packed(array: Any) -> Any:
        return None if array is None else array.unflatten(0, (*sizes, -1)).transpose(0, 1).reshape(array.shape)

    def change(call: Call) -> Any:
        weight = call.argument(1, "weight")
        rows, width = weight.shape
        if rows != 3 * width or width % heads:
            return NotImplemented
        return call.func(call.x, packed(weight), packed(call.argument(2, "bias")))

    return change


def _thirds(order: tuple[int, ...], with_bias: bool) -> Change:
    """Reorder the three parts of a projection to query, key and value; its bias too, or the weight alone."""

    def change(call: Call) -> Any:
        weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
        if weight.ndim != 2 or weight.shape[0] != 3 * weight.shape[1]:
            return NotImplemented
        if bias is None and with_bias:
            return NotImplemented  # the weight alone is all
        other = torch.cat([weight.chunk(3)[i] for i in order])
        return call.func(call.x, other, torch.cat([bias.chunk(3)[i] for i in order]) if with_bias else bias)

    return change


def _pieces(order: tuple[int, ...]) -> Change:
    def change(call: Call) -> Any:
        pieces = call.plain()
        return type(pieces)(pieces[i] for i in order) if _are_like(pieces, len(order)) else NotImplemented

    return change


def _are_like(pieces: Any, count: int) -> bool:
    is_of_data = isinstance(pieces, tuple | list) and len(pieces) == count and pieces[0].is_floating_point()
    return is_of_data and len({piece.shape for piece in pieces}) == 1


def _orders() -> list[Hypothesis]:
    found = []
    for order in list(permutations(range(3)))[1:]:
        names = " ".join(["query", "key", "value"][i] for i in order)
        says = f"the parts of the projection are exchanged: {names}"
        found.append(Hypothesis(says, {"linear": _thirds(order, with_bias=True)}))
        found.append(Hypothesis(f"{says} (in the weight alone)", {"linear": _thirds(order, with_bias=False)}))
    for count in (2, 3, 4):
        for order in list(permutations(range(count)))[1:]:
            says = f"the {count} parts of a split are exchanged: {' '.join(str(i + 1) for i in order)}"
            found.append(Hypothesis(says, on(("chunk", "split", "unbind"), _pieces(order))))
    return found


PARTS = (
    *(
        Hypothesis(
            f"a weight's heads are split in the order (size, heads), of {heads} heads",
            {"linear": _heads_of_weight(heads)},
        )
        for heads in (2, 3, 4, 6, 8, 12, 16)
    ),
    *(
        Hypothesis(
            f"query, key and value are packed head by head, of {heads} heads{says}", {"linear": _packed_by_head(sizes)}
        )
        for heads in (2, 3, 4, 6, 8, 12, 16)
        for says, sizes in (("", (3, heads)), (", and read as if one after the other", (heads, 3)))
    ),
    *_orders(),
)
