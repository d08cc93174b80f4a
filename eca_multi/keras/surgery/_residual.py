"""Residual branches, found by data flow: at each add, the operand behind which more convolutions of its own lie."""

from typing import Any

from eca_multi.surgery.candidate import Candidate

from ._graph import Call, Graph
from ._kinds import is_add, kind, weighted
from ._places import Places, Site

TOKENS = "adds tokens (N, T, C), no feature maps"


class Ancestry:
    """For each tensor of a graph the set of calls that it comes from, as bits, and how many convolutions each holds."""

    def __init__(self, graph: Graph) -> None:
        self.weights = [weighted(call.operation) for call in graph.calls]
        self._masks: dict[int, int] = {}
        for number, call in enumerate(graph.calls):
            mask = 1 << number
            for tensor in call.inputs:
                mask |= self.mask(tensor)
            for tensor in call.outputs:
                self._masks[id(tensor)] = mask

    def mask(self, tensor: Any) -> int:
        return self._masks.get(id(tensor), 0)

    def weight(self, mask: int) -> int:
        return sum(weight for number, weight in enumerate(self.weights) if mask >> number & 1)


def residual(places: Places) -> list[Site]:
    """The branch right before each residual add."""
    edges, refused = [], []
    for graph in _graphs(places):
        behind = Ancestry(graph)
        for call in graph.calls:
            if not is_add(call.operation) or len(call.inputs) < 2:
                continue
            operand, reason = branch(places, graph, call, behind)
            if operand is None:
                refused.append(_refused(places, call, reason))
            else:
                edges.append((graph, call, operand))
    return [*places.edge_sites(edges), *refused]


def named_edges(places: Places, path: str, into: list[str]) -> list[tuple[Graph, Call, Any]]:
    """The operands of adds that come from the operation `path`: of the adds named, else of those found by data flow.

    The names of `a + b` are counted by Keras and differ between two instances of one architecture.
    """
    operation = places.network.operations[path]
    every = []
    for graph in places.network.graphs:
        for call in graph.calls:
            if is_add(call.operation) and len(call.inputs) > 1:
                for operand in call.inputs:
                    _, tensor, _ = places.step_back(graph, call, operand)
                    source = graph.producer.get(id(tensor))
                    if source is not None and source.operation is operation:
                        every.append((graph, call, operand))
    named = [edge for edge in every if places.network.path(edge[1].operation) in into]
    if named:
        return named
    found = []
    for graph in {id(edge[0]): edge[0] for edge in every}.values():
        behind = Ancestry(graph)
        found += [e for e in every if e[0] is graph and branch(places, graph, e[1], behind)[0] is e[2]]
    return found


def branch(places: Places, graph: Graph, add: Call, behind: Ancestry) -> tuple[Any, str]:
    """Return the branch's operand, or None and why none of the operands is one."""
    unfit = places.unfit(graph, add.outputs[0])
    if unfit:
        return None, unfit
    masks = [behind.mask(tensor) for tensor in add.inputs]
    counts = []
    for i, mask in enumerate(masks):
        others = 0
        for j, other in enumerate(masks):
            others |= other if j != i else 0
        counts.append(behind.weight(mask & ~others))
    order = sorted(range(len(counts)), key=lambda i: -counts[i])
    first, second = order[0], order[1]
    if counts[first] == 0:
        return None, "adds operands that no convolution sets apart"
    if counts[first] == counts[second]:
        return None, f"each operand has {counts[first]} convolutions of its own: name the branch in a list"
    if not any(masks[first] & masks[i] for i in order[1:]):
        return None, "adds operands of different origin: not a residual add"
    tensor = add.inputs[first]
    if len(add.outputs[0].shape) == 3 and places.is_tokens(graph, tensor):
        return None, TOKENS
    return tensor, ""


def _graphs(places: Places) -> list[Graph]:
    order: dict[int, Graph] = {id(graph): graph for graph, _ in places.network.ordered()}
    return list(order.values())


def _refused(places: Places, add: Call, reason: str) -> Site:
    path = places.network.path(add.operation)
    return Site(Candidate(path, add.operation, "before_add", kind(add.operation), reason=reason), add.operation)
