"""The way in: all sites of a model, for each `where`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eca_multi.surgery.candidate import Candidate
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.replay import KIND_OF_ACTION

from .blocks import blocks
from .graph import Network, is_built
from .layers import conv_norms, convs, everything, norms
from .places import Places, Site
from .residual import residual
from .squeeze import squeezes

KINDS: dict[str, Callable[[Places], list[Site]]] = {
    "residual": residual,
    "block": blocks,
    "conv_norm": conv_norms,
    "conv": convs,
    "norm": norms,
    "se": squeezes,
    "any": everything,
}


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
        """Return how many sites each `where` finds."""
        return {kind: sum(not c.reason for c in self.find(kind)) for kind in KINDS if kind != "any"}

    def sites(self, kind: str) -> list[Site]:
        """As `find`, with the places in the graph."""
        if kind not in self._sites:
            self._sites[kind] = KINDS[kind](self.places)
        return self._sites[kind]

    def site(self, entry: ECAEntry) -> Site:
        """Return the site of an entry of a plan that fits the network."""
        sites = self.sites(KIND_OF_ACTION[entry.action])
        return next(site for site in sites if entry.path in site.candidate.names)
