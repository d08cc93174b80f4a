"""All sites of a model, for each `where`; here those behind layers of a kind: convolutions, norms, or all."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eca_multi.surgery.candidate import HAS_ECA, Candidate
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.reasons import TOKENS
from eca_multi.surgery.replay import KIND_OF_ACTION

from .graph import Graph, Network, is_built
from .kinds import is_conv, is_eca, is_norm, is_opaque, is_passing, weighted
from .places import Places, Site, without
from .residual import blocks, residual
from .squeeze import blocks_of, squeezes

BEFORE_NORM = (
    "a norm follows: it undoes a constant gate, so the kernel learns slowly; where='conv_norm' gates behind it"
)


class Finder:
    """All candidates of one model, which `check_model` accepted."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.network = Network(model)
        self.places = Places(self.network)
        self._sites: dict[str, list[Site]] = {}

    def find(self, kind: str) -> list[Candidate]:
        """Return the candidates of one `where`, "any" for all operations, in the network's order."""
        candidates = [site.candidate for site in self.sites(kind)]
        # A Sequential without shapes does not show how often a nested model runs.
        return candidates if is_built(self.model) else [replace(candidate, calls=None) for candidate in candidates]

    def offers(self) -> dict[str, int]:
        return {kind: sum(c.is_open for c in self.find(kind)) for kind in KINDS if kind != "any"}

    def sites(self, kind: str) -> list[Site]:
        """As `find`, with the places in the graph."""
        if kind not in self._sites:
            place = {id(operation): number for number, operation in enumerate(self.network.in_order())}
            self._sites[kind] = sorted(KINDS[kind](self.places), key=lambda site: place[id(site.operation)])
        return self._sites[kind]

    def tensors(self, entry: ECAEntry) -> list[Any]:
        """Return the tensors that an entry's ECA gates."""
        site = self.site(entry)
        gated = [tensor for _, tensor in (*site.edges, *site.products)]
        return gated or [call.outputs[0] for _, call in self.network.calls(site.operation)]

    def site(self, entry: ECAEntry) -> Site:
        sites = self.sites(KIND_OF_ACTION[entry.action])
        return next(site for site in sites if entry.path in site.candidate.names)


def everything(places: Places) -> list[Site]:
    """Return the site behind each operation, for a list of paths or a callable."""
    return [places.site(operation) for operation in places.network.in_order() if not is_eca(operation)]


def convs(places: Places) -> list[Site]:
    sites = []
    for operation in places.network.in_order():
        if is_conv(operation):
            followed = any(_norm_behind(graph, call.outputs[0]) for graph, call in places.network.calls(operation))
            sites.append(places.site(operation, notes=(BEFORE_NORM,) * followed))
    return [*(_feature_map(places, site) for site in sites), *_hidden(places)]


def norms(places: Places) -> list[Site]:
    return [_feature_map(places, places.site(layer)) for layer in places.network.in_order() if is_norm(layer)]


def conv_norms(places: Places) -> list[Site]:
    """Return the site behind the norm that follows each convolution, else behind the convolution."""
    sites: dict[int, Site] = {}
    for operation in filter(is_conv, places.network.in_order()):
        calls = list(places.network.calls(operation))
        ends = [_norm_behind(graph, call.outputs[0]) for graph, call in calls]
        end = ends[0] if ends[0] is not None and all(other is ends[0] for other in ends) else operation
        site = _feature_map(places, places.site(end))
        if not site.candidate.reason and all(places.is_gated(graph, call.outputs[0]) for graph, call in calls):
            site = without(site, HAS_ECA)
        sites.setdefault(id(end), site)
    return [*sites.values(), *_hidden(places)]


def _feature_map(places: Places, site: Site) -> Site:
    """Refuse a site, which the user did not name, of tokens or inside of another attention."""
    if site.candidate.reason:
        return site
    block = blocks_of(places).get(id(site.operation))
    if block:
        return without(site, f"inside of the SE block {block}")
    calls = places.network.calls(site.operation)
    if any(places.is_tokens(graph, call.outputs[0]) for graph, call in calls):
        path = site.candidate.path
        return replace(site, candidate=replace(site.candidate, axis_reason=TOKENS.format(path=path)))
    return site


def _hidden(places: Places) -> list[Site]:
    """Return the layers with convolutions that the graph does not show, so that a plan names them."""
    sites = []
    for operation in filter(is_opaque, places.network.in_order()):
        count = weighted(operation, also_dense=False)
        if count:
            reason = f"a layer with {count} convolutions inside that the graph hides"
            sites.append(without(places.site(operation), reason))
    return sites


def _norm_behind(graph: Graph, tensor: Any) -> Any:
    """Return the norm that alone gets a tensor, over Dropout and ECA; None where there is none."""
    call = graph.only_consumer(tensor)
    while call is not None and (is_eca(call.operation) or is_passing(call.operation)):
        call = graph.only_consumer(call.outputs[0])
    return call.operation if call is not None and is_norm(call.operation) else None


KINDS: dict[str, Callable[[Places], list[Site]]] = {
    "residual": residual,
    "block": blocks,
    "conv_norm": conv_norms,
    "conv": convs,
    "norm": norms,
    "se": squeezes,
    "any": everything,
}
