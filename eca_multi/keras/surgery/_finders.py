"""Where ECA could stand: one function for each `where`, each of which returns sites in the network's order."""

from collections.abc import Callable
from dataclasses import replace as changed
from typing import Any

from eca_multi.surgery.candidate import HAS_ECA

from ._blocks import blocks
from ._graph import Graph
from ._kinds import is_conv, is_eca, is_norm, is_opaque, is_passing, weighted
from ._places import Places, Site, without
from ._residual import residual
from ._squeeze import inside, squeezes

TOKENS = "(N, T, C) without a 1-D convolution before it: tokens, no feature map"
BEFORE_NORM = (
    "a norm follows: it undoes a constant gate, so the kernel learns slowly; where='conv_norm' gates behind it"
)


def _operations(places: Places) -> list[Any]:
    """Each operation once, in the order in which they run."""
    return list({id(call.operation): call.operation for _, call in places.network.ordered()}.values())


def _fit(places: Places, site: Site) -> Site:
    """A site that was not named by the user must be a feature map, and no part of another attention."""
    block = inside(places).get(id(site.operation))
    if block and not site.candidate.reason:
        return without(site, f"inside of the SE block {block}")
    for graph, call in places.network.calls():
        if call.operation is site.operation and not site.candidate.reason and places.is_tokens(graph, call.outputs[0]):
            return without(site, TOKENS)
    return site


def everything(places: Places) -> list[Site]:
    """All operations, for a list of paths or a callable."""
    return [places.site(operation) for operation in _operations(places) if not is_eca(operation)]


def _hidden(places: Places) -> list[Site]:
    """Layers with convolutions that the graph does not show: never taken, but never lost."""
    sites = []
    for operation in _operations(places):
        inner = weighted(operation, also_dense=False) if is_opaque(operation) else 0
        if inner:
            reason = f"a layer with {inner} convolutions inside that the graph hides"
            sites.append(without(places.site(operation), reason))
    return sites


def convs(places: Places) -> list[Site]:
    """Behind each convolution."""
    sites = []
    for operation in _operations(places):
        if is_conv(operation):
            followed = any(_norm_behind(g, c.outputs[0]) for g, c in places.network.calls() if c.operation is operation)
            sites.append(places.site(operation, notes=(BEFORE_NORM,) * followed))
    return [*(_fit(places, site) for site in sites), *_hidden(places)]


def norms(places: Places) -> list[Site]:
    """Behind each norm."""
    return [_fit(places, places.site(o)) for o in _operations(places) if is_norm(o)]


def conv_norms(places: Places) -> list[Site]:
    """Behind the norm that follows each convolution, else behind the convolution."""
    sites: dict[int, Site] = {}
    for operation in _operations(places):
        if not is_conv(operation):
            continue
        calls = [(g, c) for g, c in places.network.calls() if c.operation is operation]
        ends = [_norm_behind(graph, call.outputs[0]) for graph, call in calls]
        end = ends[0] if ends[0] is not None and all(e is ends[0] for e in ends) else operation
        site = _fit(places, places.site(end))
        if not site.candidate.reason and all(places.is_gated(g, c.outputs[0]) for g, c in calls):
            site = without(site, HAS_ECA)
        sites.setdefault(id(end), site)
    return [*sites.values(), *_hidden(places)]


def _norm_behind(graph: Graph, tensor: Any) -> Any:
    """The norm that alone gets a tensor, over Dropout and ECA; None if there is none."""
    call = graph.only_consumer(tensor)
    while call is not None and (is_eca(call.operation) or is_passing(call.operation)):
        call = graph.only_consumer(call.outputs[0])
    return call.operation if call is not None and is_norm(call.operation) else None


FINDERS: dict[str, Callable[[Places], list[Site]]] = {
    "residual": residual,
    "block": blocks,
    "conv_norm": conv_norms,
    "conv": convs,
    "norm": norms,
    "se": squeezes,
    "any": everything,
}


def offers(places: Places) -> dict[str, int]:
    """How many sites each `where` would find."""
    return {
        name: sum(not site.candidate.reason for site in find(places)) for name, find in FINDERS.items() if name != "any"
    }


def calls_known(sites: list[Site], known: bool) -> list[Site]:
    """Without call counts where the network is not built."""
    if known:
        return sites
    return [changed(site, candidate=changed(site.candidate, calls=None)) for site in sites]
