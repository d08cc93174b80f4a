"""The candidates of each kind of `where`."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from eca_multi.surgery.candidate import Candidate, Place
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from eca_multi.torch.layers import ECA
from eca_multi.torch.surgery._wrap.sites import base_of, parent_of

from .classes import CONVS, NORMS, channels_of, is_container
from .flow import Flow, Untraceable
from .network import Network, before_activations
from .places import children, join
from .residual import Source, branches, source_of
from .squeeze import is_squeeze, squeezed_channels

SLOTS = ("se", "attn")  # timm's names for the attention layer of a block


def find(network: Network, kind: str) -> list[Candidate]:
    """Return all candidates of a kind, in the network's order."""
    unique: dict[str, Candidate] = {}
    for candidate in KINDS[kind](network):
        unique.setdefault(candidate.path, candidate)
    return list(unique.values())


def offers(network: Network) -> Mapping[str, int]:
    counts = {}
    for kind in ("residual", "conv_norm", "conv", "norm", "se"):
        try:
            counts[kind] = sum(not candidate.reason for candidate in find(network, kind))
        except (NoSiteError, UnsupportedModelError):
            counts[kind] = 0
    return counts


def _convs(network: Network) -> list[Candidate]:
    candidates = []
    for place in _of_class(network, CONVS):
        conv: Any = base_of(place.module)
        notes = []
        if _norm_behind(network, place) is not None:
            notes.append(
                "before a norm, which takes a constant gate out again and leaves it nearly no gradient: conv_norm"
            )
        if conv.groups > 1 and conv.groups == conv.in_channels:
            notes.append("depthwise: the gate after the projection is usual")
        candidates.append(network.candidate(place, notes=notes))
    return candidates


def _conv_norms(network: Network) -> list[Candidate]:
    candidates = []
    for place in _of_class(network, CONVS):
        site = _norm_behind(network, place) or place
        candidates.append(network.candidate(site, f"the output of {site.path}, behind {place.path}"))
    return candidates


def _of_class(network: Network, classes: tuple[type[nn.Module], ...]) -> list[Place]:
    return [place for place in network.places if place.path and isinstance(base_of(place.module), classes)]


def _norm_behind(network: Network, conv: Place) -> Place | None:
    """The norm that alone gets the output of a convolution, and gets nothing else."""
    above, name = parent_of(conv.path)
    flow = network.flow(above)
    if isinstance(flow, Untraceable):
        return _next_sibling(network, above, name)
    for number in flow.calls_of(name):
        users = flow.users(number)
        if len(users) == 1 and flow.steps[users[0]].kind == "module":
            user = network.at[join(above, flow.steps[users[0]].name)]
            return user if isinstance(base_of(user.module), NORMS) else None
    return None


def _next_sibling(network: Network, above: str, name: str) -> Place | None:
    """The norm that is defined right behind a convolution, for a forward whose data flow is unknown."""
    names = [child for child, _ in children(base_of(network.at[above].module))]
    later = names[names.index(name) + 1 :] if name in names else []
    if not later:
        return None
    site = network.at[join(above, later[0])]
    norm, conv = base_of(site.module), base_of(network.at[join(above, name)].module)
    return site if isinstance(norm, NORMS) and channels_of(norm) == channels_of(conv) else None


def _residual(network: Network) -> list[Candidate]:
    candidates = [
        _at_source(network, place, source, "residual branch of the add", flow)
        for place, flow in network.blocks()
        for source in branches(flow, base_of(place.module))
    ]
    _require_flows(network, candidates)
    return candidates


def _blocks(network: Network) -> list[Candidate]:
    """The end of each residual branch, and the output of other blocks of a class that has a residual add."""
    blocks = [(place, flow, branches(flow, base_of(place.module))) for place, flow in network.blocks()]
    kinds = {type(base_of(place.module)) for place, _, ends in blocks if place.path and any(end.path for end in ends)}
    candidates = []
    for place, flow, ends in blocks:
        block = base_of(place.module)
        if type(block) not in kinds:
            continue
        sources, text = [end for end in ends if end.path], "residual branch of the add"
        if not sources:
            sources, text = [source_of(flow, block, number) for number in flow.outputs], "the block's output"
        candidates += [_at_source(network, place, source, text, flow) for source in sources]
    _require_flows(network, candidates)
    return candidates


def _at_source(network: Network, block: Place, source: Source, text: str, flow: Flow) -> Candidate:
    name = block.path or "the network"
    if not source.path:
        kind = type(base_of(block.module)).__name__
        return Candidate(name, module_type=kind, tensor=f"{name}: {text}", reason=source.reason)
    notes = ("found by a run",) if flow.by_run else ()
    return network.candidate(network.at[join(block.path, source.path)], f"{name}: {text}", source, notes=notes)


def _require_flows(network: Network, candidates: list[Candidate]) -> None:
    """Refuse a network whose blocks cannot be traced: it may have residual adds all the same."""
    unknown = {path: flow for path, flow in network.flows.items() if isinstance(flow, Untraceable)}
    if candidates or not unknown or network.run is not None:
        return
    path, error = next(iter(unknown.items()))
    raise UnsupportedModelError(
        f"model must be traceable, or come with example_inputs. Received: {type(network.model).__name__}, where "
        f"torch.fx cannot trace {path or 'the network'} ({error}). Pass example_inputs, or list the modules."
    )


def _squeezes(network: Network) -> list[Candidate]:
    candidates = []
    for place in network.places:
        if not place.path or is_container(place.module) or not any(place.module.children()):
            continue
        flow = network.flow(place.path)
        if isinstance(flow, Flow) and is_squeeze(flow, place.module):
            dropped = sum(parameter.numel() for parameter in place.module.parameters())
            candidates.append(
                Candidate(
                    path=place.path,
                    module=place.module,
                    action="replace",
                    module_type=type(place.module).__name__,
                    tensor="the input of the SE block",
                    channels=squeezed_channels(place.module),
                    aliases=place.aliases,
                    calls=network.calls(place),
                    keeps_output=False,
                    notes=(f"replaces an SE block: its {dropped} parameters are dropped",),
                )
            )
    replaced = [p for p in network.places if isinstance(p.module, ECA) and p.module.inserted == "replace"]
    return candidates + [network.candidate(place, action="replace") for place in replaced]


def _slots(network: Network) -> list[Candidate]:
    candidates = []
    for block in network.places:
        for name in SLOTS:
            value = getattr(block.module, name, network)
            path = join(block.path, name)
            if isinstance(value, ECA):
                candidates.append(network.candidate(network.at[path]))
            elif value is None or type(value) is nn.Identity:
                candidates.append(_empty_slot(network, block, path, name))
    return candidates


def _empty_slot(network: Network, block: Place, path: str, name: str) -> Candidate:
    """Describe a slot; its channels are those of the module before the slot, or of the branch that the slot closes."""
    flow = network.flow(block.path)
    source: Source | None = None
    if isinstance(flow, Flow):
        calls = flow.calls_of(name)
        if calls and flow.steps[calls[0]].inputs:
            before = before_activations(flow, block.module, flow.steps[calls[0]].inputs[0])
            source = source_of(flow, block.module, before)
        else:
            source = next((end for end in branches(flow, block.module) if end.path), None)
    channels = None
    if source is not None and source.path:
        channels = network.channels(network.at[join(block.path, source.path)])
    return Candidate(
        path=path,
        module=block.module,
        action="fill",
        module_type=f"slot of {type(block.module).__name__}",
        tensor=f"{block.path}: where the block calls {name}",
        channels=channels,
    )


KINDS: dict[str, Callable[[Network], list[Candidate]]] = {
    "residual": _residual,
    "block": _blocks,
    "conv_norm": _conv_norms,
    "conv": _convs,
    "norm": lambda network: [network.candidate(place) for place in _of_class(network, NORMS)],
    "se": _squeezes,
    "slot": _slots,
    "any": lambda network: [network.candidate(place) for place in network.places if place.path],
}
