"""The candidates of each kind of `where`."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from eca_multi.flax._jaxpr.origins import origin_path, readers
from eca_multi.flax._jaxpr.residual import Branch
from eca_multi.flax._jaxpr.squeeze import gates_its_input
from eca_multi.flax.nnx.layers import ECA
from eca_multi.flax.nnx.surgery._wrap import NAME, base_class
from eca_multi.surgery.candidate import Candidate, Place

from .classes import CONVS, NORMS, static_channels
from .network import Network, depthwise_note
from .places import children, is_in_order, parameters

UNKNOWN_NORM = "which norm follows it cannot be told without a run: pass example_inputs"


def find(network: Network, kind: str) -> list[Candidate]:
    """Return all candidates of a kind; raise UnsupportedModelError if the kind needs a run and there is none."""
    return KINDS[kind](network)


def offers(network: Network) -> Mapping[str, int]:
    needs_run = () if network.run is None else ("residual", "block", "se")
    kinds = [kind for kind in KINDS if kind in (*needs_run, "conv_norm", "conv", "norm")]
    return {kind: sum(candidate.is_open for candidate in find(network, kind)) for kind in kinds}


def _convs(network: Network) -> list[Candidate]:
    after = _norm_after(network)
    text = "directly before {}: a constant gate has no effect through a norm"
    return [
        network.candidate(conv, (text.format(norm),) if (norm := after.get(conv.path, "")) else ())
        for conv in network.convs
    ]


def _conv_norms(network: Network) -> list[Candidate]:
    after = _norm_after(network)
    candidates: dict[str, Candidate] = {}
    for conv in network.convs:
        norm = after.get(conv.path, conv.path)
        if norm is None:
            candidates[conv.path] = network.candidate(conv, reason=UNKNOWN_NORM)
        elif norm == conv.path:
            candidates.setdefault(norm, network.candidate(conv))
        else:
            text = f"{norm}: output, after {conv.path}"
            site = network.candidate(network.at[norm], depthwise_note(conv.module), tensor=text)
            candidates.setdefault(norm, site)
    return list(candidates.values())


def _norm_after(network: Network) -> dict[str, str | None]:
    """Return the norm's path by the convolution's: None if the norm cannot be told, no entry if there is no norm."""
    if network.run is None:
        return _by_order(network)
    # Of a convolution that has ECA already, the norm takes the output of the ECA.
    makers = {path: conv.path for conv in network.convs for path in (conv.path, f"{conv.path}.{NAME}")}
    return {**readers(network.run.flow, makers, [norm.path for norm in network.norms])}


def _by_order(network: Network) -> dict[str, str | None]:
    """Take the module that is defined right behind the convolution, if the order of definition is kept."""
    holders = _holders(network.model)
    result: dict[str, str | None] = {}
    for conv in network.convs:
        if not conv.path:
            continue
        above = holders[id(conv.module)]
        siblings = [child for _, child in children(above) if isinstance(child, (*CONVS, *NORMS))]
        behind = siblings[siblings.index(conv.module) + 1 :]
        channels = static_channels(conv.module)
        fitting = [norm for norm in siblings if isinstance(norm, NORMS) and static_channels(norm) == channels]
        if not is_in_order(above) and fitting:
            result[conv.path] = None
        elif behind and behind[0] in fitting:
            result[conv.path] = next(norm.path for norm in network.norms if norm.module is behind[0])
    return result


def _holders(model: nnx.Module) -> dict[int, Any]:
    """Return the node that holds each module: a module, a list or a dict."""
    result: dict[int, Any] = {}
    for _, node in nnx.iter_graph(model):
        if nnx.graphlib.is_graph_node(node) or isinstance(node, list | tuple | dict):
            for _, child in children(node):
                result.setdefault(id(child), node)
    return result


def _blocks(network: Network) -> list[Candidate]:
    """The end of each block of a class that has a residual add: the last branch, or the block's output."""
    last_branch: dict[str, Branch] = {}
    for branch in network.branches:
        if not branch.reason and branch.owner in network.at:
            last_branch[network.at[branch.owner].path] = branch
    kinds = {base_class(network.at[owner].module) for owner in last_branch if owner}
    candidates: dict[str, Candidate] = {}
    for place in network.places:
        if place.path and base_class(place.module) in kinds:
            end = last_branch.get(place.path)
            candidate = _block_output(network, place) if end is None else network.at_branch(end)
            candidates.setdefault(candidate.path, candidate)
    return list(candidates.values())


def _block_output(network: Network, block: Place) -> Candidate:
    """Describe the module that makes the output of a block without an add, before an activation."""
    flow = network.traced("block").flow
    text = f"{block.path}: output of a block without an add"
    tags = list(flow.tags("out", block.path))
    path = origin_path(flow, flow.nodes[tags[0]].ins[0]) if tags else ""
    if not path.startswith(f"{block.path}."):
        return network.candidate(block, tensor=text)
    return network.at_branch(Branch(path, text))


def _squeezes(network: Network) -> list[Candidate]:
    flow = network.traced("se").flow
    candidates: dict[str, Candidate] = {}
    innermost_first = sorted(network.places, key=lambda place: -place.path.count("."))
    for place in innermost_first:
        holds_one = any(path.startswith(f"{place.path}.") for path in candidates)
        if not place.path or holds_one or isinstance(place.module, ECA) or not gates_its_input(flow, place.path):
            continue
        candidates[place.path] = network.candidate(
            place,
            (f"the SE block is replaced, its {parameters(place.module)} parameters are dropped",),
            action="replace",
            tensor=f"{place.path}: input of the SE block",
            keeps_output=False,
        )
    return [candidates[place.path] for place in network.places if place.path in candidates]


KINDS: dict[str, Callable[[Network], list[Candidate]]] = {
    "residual": lambda network: [network.at_branch(branch) for branch in network.branches],
    "block": _blocks,
    "conv_norm": _conv_norms,
    "conv": _convs,
    "norm": lambda network: [network.candidate(norm) for norm in network.norms],
    "se": _squeezes,
    "any": lambda network: [network.candidate(place) for place in network.places],
}
