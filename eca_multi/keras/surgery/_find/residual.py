"""Residual branches, found by data flow: at each add, the operand with more convolutions of its own behind it."""

from functools import reduce
from operator import or_
from typing import Any

from eca_multi.surgery.candidate import Candidate

from .graph import Call, Graph
from .kinds import is_add, kind, weighted
from .places import Places, Site, unfit

TOKENS = "adds tokens (N, T, C), no feature maps"


class Ancestry:
    """For each tensor of a graph the set of calls behind it, as bits, and how many convolutions each call holds."""

    def __init__(self, graph: Graph) -> None:
        self.weights = [weighted(call.operation) for call in graph.calls]
        self._masks: dict[int, int] = {}
        for number, call in enumerate(graph.calls):
            mask = reduce(or_, map(self.mask, call.inputs), 1 << number)
            self._masks |= {id(tensor): mask for tensor in call.outputs}

    def mask(self, tensor: Any) -> int:
        return self._masks.get(id(tensor), 0)

    def weight(self, mask: int) -> int:
        return sum(weight for number, weight in enumerate(self.weights) if mask >> number & 1)


def residual(places: Places) -> list[Site]:
    """Return the branch right before each residual add."""
    edges, refused = [], []
    for graph in {id(graph): graph for graph, _ in places.network.ordered()}.values():
        behind = Ancestry(graph)
        for call in graph.calls:
            if not is_add(call.operation) or len(call.inputs) < 2:
                continue
            operand, reason = _branch(places, graph, call, behind)
            if operand is None:
                refused.append(_refused(places, call, reason))
            else:
                edges.append((graph, call, operand))
    return [*places.edge_sites(edges), *refused]


def _branch(places: Places, graph: Graph, add: Call, behind: Ancestry) -> tuple[Any, str]:
    """Return the operand that is the branch; None and the reason where there is none."""
    reason = unfit(add.outputs[0])
    if reason:
        return None, reason
    masks = [behind.mask(tensor) for tensor in add.inputs]
    others = [reduce(or_, masks[:i] + masks[i + 1 :]) for i in range(len(masks))]
    counts = [behind.weight(mask & ~other) for mask, other in zip(masks, others, strict=True)]
    order = sorted(range(len(counts)), key=lambda i: -counts[i])
    first, second = order[0], order[1]
    if counts[first] == 0:
        return None, "adds operands that no convolution sets apart"
    if counts[first] == counts[second]:
        return None, f"each operand has {counts[first]} convolutions of its own: name the branch in a list"
    if not any(masks[first] & masks[i] for i in order[1:]):
        return None, "adds operands of different origin: not a residual add"
    if len(add.outputs[0].shape) == 3 and places.is_tokens(graph, add.inputs[first]):
        return None, TOKENS
    return add.inputs[first], ""


def _refused(places: Places, add: Call, reason: str) -> Site:
    path = places.network.path(add.operation)
    return Site(Candidate(path, add.operation, "before_add", kind(add.operation), reason=reason), add.operation)
