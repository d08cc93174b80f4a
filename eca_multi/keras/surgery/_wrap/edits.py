"""The differences of the new graph: from the entries of a plan to the ECA of each call or tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras

from eca_multi.keras.surgery._find.finder import Finder
from eca_multi.keras.surgery._find.graph import Network
from eca_multi.keras.surgery._find.places import Site
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.plan import ECAPlan

from .installed import InsertedECA

Gate = Callable[[], InsertedECA]


@dataclass
class Edits:
    """The differences, by the identity of calls, operations and tensors of the old model."""

    after: dict[int, Gate] = field(default_factory=dict)  # operations whose outputs are gated for all calls
    edges: dict[tuple[int, int], Gate] = field(default_factory=dict)  # (node, tensor), gated for this call alone
    products: dict[int, tuple[Any, Gate]] = field(default_factory=dict)  # nodes whose output ECA makes from a tensor
    dropped: set[int] = field(default_factory=set)  # ECA layers to leave out


def edits_for(plan: ECAPlan, entries: Sequence[ECAEntry], finder: Finder) -> Edits:
    """Return the edits that put new ECAs at the sites of a plan's entries."""
    taken = {name.rsplit("/", 1)[-1] for name in finder.network.operations}

    def gate(entry: ECAEntry, site: Site) -> Gate:
        return _gate(plan, entry, site, _new_name(site.operation.name, taken), finder.network)

    return edits_at(entries, finder, gate)


def edits_at(entries: Sequence[ECAEntry], finder: Finder, gate_of: Callable[[ECAEntry, Site], Gate]) -> Edits:
    """Return the edits that put at each entry's site what `gate_of` says."""
    edits = Edits()
    for entry in entries:
        site = finder.site(entry)
        gate = gate_of(entry, site)
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


def _gate(plan: ECAPlan, entry: ECAEntry, site: Site, name: str, network: Network) -> Gate:
    return partial(
        InsertedECA,
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
        **entry.axes,
    )


def _policy(site: Site, network: Network) -> str:
    """Compute in the dtype of the gated tensor, and keep the kernel in that of the site's weights."""
    tensor = site.tensor
    if tensor is None:
        tensor = next(call.outputs[0] for _, call in network.calls(site.operation))
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    of_weights = site.operation.variable_dtype if isinstance(site.operation, keras.Layer) else "float32"
    return f"mixed_{dtype}" if dtype in ("float16", "bfloat16") and of_weights == "float32" else str(dtype)
