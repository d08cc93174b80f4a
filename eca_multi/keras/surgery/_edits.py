"""From the entries of a plan to the edits of a graph."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.plan import ECAPlan

from ._finders import FINDERS
from ._graph import Network
from ._inserted import InsertedECA
from ._places import Places, Site
from ._rebuild import Edits
from ._residual import named_edges


def located(places: Places, entries: Sequence[ECAEntry]) -> dict[str, Site]:
    """What the network has now where a plan names it; what is not there is left out."""
    known = places.network.operations
    squeezes = {site.candidate.path: site for site in FINDERS["se"](places)}
    result = {}
    for entry in entries:
        path = next((p for p in (entry.path, *entry.aliases) if p in known), None)
        if path is None:
            continue
        if entry.action == "replace":
            if path in squeezes:
                result[entry.path] = squeezes[path]
        elif entry.action == "before_add":
            sites = places.edge_sites(named_edges(places, path, entry.into.split(", ")))
            if sites:
                result[entry.path] = sites[0]
        else:
            result[entry.path] = places.site(known[path])
    return result


def edits_for(plan: ECAPlan, entries: Sequence[ECAEntry], sites: dict[str, Site], network: Network) -> Edits:
    """The edits that carry out entries at their sites."""
    edits = Edits()
    taken = {name.rsplit("/", 1)[-1] for name in network.operations}
    for entry in entries:
        site = sites[entry.path]
        gate = _gate(plan, entry, site, _new_name(site.operation.name, taken), network)
        for call, tensor in site.edges:
            edits.edges[(id(call.node), id(tensor))] = gate
        for call, tensor in site.products:
            edits.products[id(call.node)] = (tensor, gate)
        if not site.edges and not site.products:
            edits.after[id(site.operation)] = gate
    return edits


def _new_name(site: str, taken: set[str]) -> str:
    name, number = f"{site}_eca", 0
    while name in taken:
        number += 1
        name = f"{site}_eca_{number}"
    taken.add(name)
    return name


def _gate(plan: ECAPlan, entry: ECAEntry, site: Site, name: str, network: Network) -> Callable[[], Any]:
    def make() -> InsertedECA:
        return InsertedECA(
            entry.kernel_size,
            gamma=plan.gamma,
            beta=plan.beta,
            gate=plan.gate,
            init=plan.init,
            data_format=entry.layout,
            dtype=_policy(site, network),
            name=name,
            action=entry.action,
            where=plan.where,
            site=site.operation.name,
            dropped=site.dropped,
        )

    return make


def _policy(site: Site, network: Network) -> str:
    """Computes in the dtype of the gated tensor, keeps its kernel in that of the site's weights."""
    tensor = site.tensor
    if tensor is None:
        tensor = next(call.outputs[0] for _, call in network.calls() if call.operation is site.operation)
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    held = site.operation.variable_dtype if isinstance(site.operation, keras.Layer) else "float32"
    return f"mixed_{dtype}" if dtype in ("float16", "bfloat16") and held == "float32" else str(dtype)
