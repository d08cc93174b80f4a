"""Residual branches, found by data flow: at each add, the operand with more convolutions of its own behind it.

`blocks` adds the ends of blocks without a skip, told by the names of layers: keras.applications name a block's layers
alike. `block_2_project_BN` runs into `block_2_add`, so `block_1_project_BN`, which no add follows, ends a block too.
"""

import re
from functools import reduce
from itertools import takewhile
from operator import or_
from typing import Any

from eca_multi.surgery.candidate import Candidate
from eca_multi.surgery.reasons import DIFFERENT_ORIGIN, MERGE, NO_CONVOLUTION, NO_MODULE, PARALLEL, POOLED

from .graph import Call, Graph
from .hidden import TOKENS, adds, hidden_adds
from .kinds import enlarges, is_add, is_input, is_pooling, kind, weighted
from .places import Places, Site, unfit

NUMBER = re.compile(r"\d+")


class Ancestry:
    """For each tensor of a graph the set of calls behind it, as bits, and how many convolutions each call holds."""

    def __init__(self, graph: Graph) -> None:
        self.weights = [weighted(call.operation) for call in graph.calls]
        self._enlarging = sum(1 << n for n, call in enumerate(graph.calls) if enlarges(call.operation))
        self._masks: dict[int, int] = {}
        for number, call in enumerate(graph.calls):
            mask = reduce(or_, map(self.mask, call.inputs), 1 << number)
            self._masks |= {id(tensor): mask for tensor in call.outputs}

    def mask(self, tensor: Any) -> int:
        return self._masks.get(id(tensor), 0)

    def enlarges(self, mask: int) -> bool:
        return bool(mask & self._enlarging)

    def weight(self, mask: int) -> int:
        return sum(weight for number, weight in enumerate(self.weights) if mask >> number & 1)


def residual(places: Places) -> list[Site]:
    """Return the branch right before each residual add, and each add that has none with the reason."""
    edges, refused = [], []
    for graph in {id(graph): graph for graph, _ in places.network.ordered()}.values():
        behind = Ancestry(graph)
        for call in graph.in_order():
            if len(call.inputs) < 2 or not adds(call):
                continue
            operands, reason = _branches(places, graph, call, behind)
            if reason:
                refused.append(_refused(places, call, reason))
            edges += [(graph, call, operand) for operand in operands]
    return [*places.edge_sites(edges), *refused, *hidden_adds(places)]


def _branches(places: Places, graph: Graph, add: Call, behind: Ancestry) -> tuple[list[Any], str]:
    """Return the operands that are branches; none and the reason where there is none."""
    reason = unfit(add.outputs[0])
    if reason:
        return [], reason
    branches = _beside_a_shortcut(graph, add, behind)
    if not branches:
        branches, reason = _branch(add, behind)
    for branch in branches:
        last = places.source(graph, add, branch)
        if len(add.outputs[0].shape) == 3 and places.is_tokens(graph, branch):
            return [], TOKENS
        if is_pooling(last.operation) and graph.only_consumer(last.inputs[0]) is not last:
            return [], POOLED  # of a map that others get too; one that ends a branch of convolutions is such an end
        if is_input(last.operation):
            return [], NO_MODULE.format("an input of a model")
    return branches, reason


def _branch(add: Call, behind: Ancestry) -> tuple[list[Any], str]:
    """Return the operand with the most convolutions of its own, or the reason why none has."""
    masks = [behind.mask(tensor) for tensor in add.inputs]
    others = [reduce(or_, masks[:i] + masks[i + 1 :]) for i in range(len(masks))]
    own = [mask & ~other for mask, other in zip(masks, others, strict=True)]
    counts = [behind.weight(mask) for mask in own]
    order = sorted(range(len(counts)), key=lambda i: -counts[i])
    first, second = order[0], order[1]
    if counts[first] == 0:
        return [], NO_CONVOLUTION
    if len({behind.enlarges(mask) for mask in own}) == 2:
        return [], MERGE
    if counts[first] == counts[second]:
        return [], PARALLEL
    if not any(masks[first] & masks[i] for i in order[1:]):
        return [], DIFFERENT_ORIGIN
    return [add.inputs[first]], ""


def _beside_a_shortcut(graph: Graph, add: Call, behind: Ancestry) -> list[Any]:
    """Return the operands of an add that are branches of a sum of three terms or more, x + a(x) + b(x)."""
    terms = _terms(graph, add)
    for shortcut in terms if len(terms) > 2 else ():
        mask = behind.mask(shortcut)
        others = [term for term in terms if term is not shortcut]
        own = [behind.mask(term) & ~mask for term in others]
        if all(map(behind.weight, own)) and not any(mask & ~behind.mask(term) for term in others):
            is_branch = {id(term) for term, steps in zip(others, own, strict=True) if not behind.enlarges(steps)}
            return [tensor for tensor in add.inputs if id(tensor) in is_branch]
    return []


def _terms(graph: Graph, add: Call) -> list[Any]:
    """Return what a chain of adds adds."""
    terms = []
    for tensor in add.inputs:
        inner = graph.producer.get(id(tensor))
        is_chained = inner is not None and is_add(inner.operation) and graph.only_consumer(tensor) is add
        terms += _terms(graph, inner) if inner is not None and is_chained else [tensor]
    return terms


def _refused(places: Places, add: Call, reason: str) -> Site:
    path = places.network.path(add.operation)
    site = Candidate(path, add.operation, "before_add", kind(add.operation), reason=reason, what="add")
    return Site(site, add.operation)


def blocks(places: Places) -> list[Site]:
    """Return the residual sites, and the layers of the same role in blocks without a skip."""
    branches = residual(places)
    ends = [site for site in branches if not site.candidate.reason or site.edges]
    patterns = [_pattern(site) for site in ends]
    if not ends or not all(patterns):
        return []
    site_of = {id(site.operation): site for site in ends}
    kinds = {kind(site.operation) for site in ends}
    sites = []
    for operation in places.network.in_order():
        if id(operation) in site_of:
            sites.append(site_of[id(operation)])
        elif kind(operation) in kinds and any(re.fullmatch(pattern, operation.name) for pattern in patterns):
            sites.append(places.site(operation, notes=("ends a block without a skip, as its name tells",)))
    return [*sites, *(site for site in branches if id(site.operation) not in site_of)]


def _pattern(site: Site) -> str:
    """Return a regular expression for the names of layers that end a block as the site does; "" where no name does."""
    name = site.operation.name
    if re.fullmatch(rf"{_automatic(site.operation)}(_\d+)?", name):
        return ""
    for into in site.candidate.into.split(", "):
        common = _common_words(name, into.rsplit("/", 1)[-1])
        if common:
            return f".*_{re.escape(name.removeprefix(common))}"
    return NUMBER.sub(r"\\d+", re.escape(name))


def _common_words(name: str, into: str) -> str:
    """Return the words, joined by "_", that both names begin with; "" if they are none, or the whole name."""
    pairs = zip(name.split("_"), into.split("_"), strict=False)
    words = [word for word, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    common = "_".join(words) + "_"
    return common if words and len(common) < len(name) else ""


def _automatic(operation: Any) -> str:
    """Return the name, without its number, that Keras gives to a layer that got none."""
    text = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", kind(operation))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", text).lower()
