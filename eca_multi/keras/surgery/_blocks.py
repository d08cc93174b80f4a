"""The end of every block, blocks without a skip included; blocks are told by the names of layers.

keras.applications name a block's layers alike: `block_2_project_BN` runs into `block_2_add`, so `block_1_project_BN`,
which no add follows, ends a block too.
"""

import re
from typing import Any

from ._kinds import kind
from ._places import Places, Site
from ._residual import residual

NUMBER = re.compile(r"\d+")


def blocks(places: Places) -> list[Site]:
    """The residual sites, and the layers of the same role in blocks without a skip."""
    found = residual(places)
    ends = [site for site in found if not site.candidate.reason or site.edges]
    patterns = [_pattern(places, site) for site in ends]
    if not ends or not all(patterns):
        return []
    taken = {id(site.operation): site for site in ends}
    kinds = {kind(site.operation) for site in ends}
    sites = []
    for operation in {id(c.operation): c.operation for _, c in places.network.ordered()}.values():
        if id(operation) in taken:
            sites.append(taken[id(operation)])
        elif kind(operation) in kinds and any(re.fullmatch(p, operation.name) for p in patterns if p):
            sites.append(places.site(operation, notes=("ends a block without a skip, as its name tells",)))
    return [*sites, *(site for site in found if id(site.operation) not in taken)]


def _pattern(places: Places, site: Site) -> str:
    """A regular expression for the names of layers that end a block as this one does; "" where its name tells none."""
    name = site.operation.name
    if re.fullmatch(rf"{_automatic(site.operation)}(_\d+)?", name):
        return ""
    for into in site.candidate.into.split(", "):
        common = _common(name, into.rsplit("/", 1)[-1])
        if common:
            return f".*_{re.escape(name.removeprefix(common))}"
    return NUMBER.sub(r"\\d+", re.escape(name))


def _common(name: str, into: str) -> str:
    """The words, joined by "_", that two names begin with; "" if there are none or nothing is left of the name."""
    words = []
    for one, other in zip(name.split("_"), into.split("_"), strict=False):
        if one != other:
            break
        words.append(one)
    common = "_".join(words) + "_"
    return common if words and len(common) < len(name) else ""


def _automatic(operation: Any) -> str:
    """The name that Keras gives to a layer without one, without its number."""
    text = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", kind(operation))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", text).lower()
