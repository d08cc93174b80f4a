"""The end of every block, blocks without a skip included; blocks are told by the names of layers.

keras.applications name a block's layers alike: `block_2_project_BN` runs into `block_2_add`, so `block_1_project_BN`,
which no add follows, ends a block too.
"""

import re
from itertools import takewhile
from typing import Any

from .kinds import kind
from .places import Places, Site
from .residual import residual

NUMBER = re.compile(r"\d+")


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
