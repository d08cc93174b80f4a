"""The candidates of each kind of `where`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from eca_multi.surgery.candidate import Candidate, Place
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from eca_multi.surgery.reasons import PARALLEL
from eca_multi.torch.layers import ECA
from eca_multi.torch.surgery._wrap.sites import parent_of

from .adds import Add, adder_line, adds, ends
from .block import Block
from .channels import before_activations
from .classes import CONVS, NORMS, channels_of, is_container
from .flow import Flow, Untraceable
from .network import Network
from .places import children, join
from .residual import Source, source_of
from .site import site_at
from .squeeze import is_squeeze, squeezed_channels

SLOTS = ("se", "attn")  # timm's names for the attention layer of a block


def find(network: Network, kind: str) -> list[Candidate]:
    """Return all candidates of a kind, in the network's order."""
    unique: dict[object, Candidate] = {}
    for number, found in enumerate(KINDS[kind](network)):
        candidate = found if kind == "any" else _if_called(network, found)
        unique.setdefault(candidate.path if candidate.what == "site" else number, candidate)
    return sorted(unique.values(), key=lambda candidate: network.order(candidate.path))


def _if_called(network: Network, candidate: Candidate) -> Candidate:
    """Leave out what the network's forward never calls; a user who names a path may know better."""
    place = network.at.get(candidate.path)
    if candidate.reason or place is None or network.is_called(place):
        return candidate
    return replace(
        candidate, reason="never called by the network's forward, as symbolic tracing shows it; example_inputs tell"
    )


def offers(network: Network) -> Mapping[str, int]:
    counts = {}
    for kind in ("residual", "conv_norm", "conv", "norm", "se"):
        try:
            counts[kind] = sum(candidate.is_open for candidate in find(network, kind))
        except (NoSiteError, UnsupportedModelError):
            counts[kind] = 0
    return counts


def _convs(network: Network) -> list[Candidate]:
    candidates = []
    for place in _of_class(network, CONVS):
        conv: Any = place.module
        notes = []
        if _norm_behind(network, place) is not None:
            notes.append(
                "before a norm, which takes a constant gate out again and leaves it nearly no gradient: conv_norm"
            )
        if conv.groups > 1 and conv.groups == conv.in_channels:
            notes.append("depthwise: the gate after the projection is usual")
        candidates.append(site_at(network, place, notes=notes))
    return candidates


def _conv_norms(network: Network) -> list[Candidate]:
    candidates = []
    for place in _of_class(network, CONVS):
        site = _norm_behind(network, place) or place
        candidates.append(site_at(network, site, f"the output of {site.path}, behind {place.path}"))
    return candidates


def _of_class(network: Network, classes: tuple[type[nn.Module], ...]) -> list[Place]:
    return [place for place in network.places if place.path and isinstance(place.module, classes)]


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
            return user if isinstance(user.module, NORMS) else None
    return None


def _next_sibling(network: Network, above: str, name: str) -> Place | None:
    """The norm that is defined right behind a convolution, for a forward whose data flow is unknown."""
    names = [child for child, _ in children(network.at[above].module)]
    later = names[names.index(name) + 1 :] if name in names else []
    if not later:
        return None
    site = network.at[join(above, later[0])]
    norm, conv = site.module, network.at[join(above, name)].module
    return site if isinstance(norm, NORMS) and channels_of(norm) == channels_of(conv) else None


def _residual(network: Network) -> list[Candidate]:
    candidates = [
        _of_add(network, place, block, add)
        for place, block in network.blocks()
        if not _is_adder(network, place, block)
        for add in adds(block)
    ]
    _require_flows(network, candidates)
    return candidates


def _blocks(network: Network) -> list[Candidate]:
    """The end of each residual branch, and the output of the other blocks of a class that has a residual add.

    A class that adds parallel branches has no branch to take: there the block's output is gated.
    """
    blocks = [(place, block, adds(block)) for place, block in network.blocks() if place.path]
    kinds = {type(block.module) for _, block, found in blocks if any(add.source.path for add in found)}
    parallel = {type(block.module) for _, block, found in blocks if any(add.source.reason == PARALLEL for add in found)}
    candidates = []
    for place, block, found in blocks:
        if type(block.module) in kinds:
            ended = [add for add in found if add.source.path]
            candidates += [_of_add(network, place, block, add) for add in ended]
            if not ended:
                sources = [source_of(block, number) for number in block.flow.outputs]
                candidates += [_at_source(network, place, block, source, "the block's output") for source in sources]
        elif type(block.module) in parallel:
            candidates.append(site_at(network, place, f"{place.path}: the output of a block of parallel branches"))
    _require_flows(network, candidates)
    return candidates


def _is_adder(network: Network, place: Place, block: Block) -> bool:
    """Whether a module only adds its two inputs, so that the add is found where the module is called."""
    above, name = parent_of(place.path)
    caller = network.block(above) if place.path and adder_line(block) is not None else None
    return caller is not None and any(len(caller.inputs(i)) == 2 for i in caller.flow.calls_of(name))


def _of_add(network: Network, place: Place, block: Block, add: Add) -> Candidate:
    if add.source.path:
        return _at_source(network, place, block, add.source, "residual branch of the add", add.line)
    name = place.path or "the network"
    return Candidate(
        place.path,
        module=place.module,
        module_type=type(block.module).__name__,
        tensor=f"{name}: an add",
        reason=add.source.reason,
        what="add",
        line=add.line,
    )


def _at_source(network: Network, place: Place, block: Block, source: Source, text: str, line: str = "") -> Candidate:
    name = place.path or "the network"
    if not source.path:
        return Candidate(place.path, module_type=type(block.module).__name__, reason=source.reason, line=line)
    notes = ("found by a run",) if block.flow.by_run else ()
    site = site_at(network, network.at[join(place.path, source.path)], f"{name}: {text}", source, notes=notes)
    return replace(site, line=line)


def _require_flows(network: Network, candidates: list[Candidate]) -> None:
    """Refuse a network whose blocks cannot be traced: it may have residual adds all the same."""
    unknown = network.unknown(of_any=not candidates)
    if any(not candidate.reason for candidate in candidates) or not unknown or network.run is not None:
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
    return candidates + [site_at(network, place, action="replace") for place in replaced]


def _slots(network: Network) -> list[Candidate]:
    candidates = []
    for block in network.places:
        for name in SLOTS:
            value = getattr(block.module, name, network)
            path = join(block.path, name)
            if isinstance(value, ECA):
                candidates.append(site_at(network, network.at[path]))
            elif value is None or type(value) is nn.Identity:
                candidates.append(_empty_slot(network, block, path, name))
    return candidates


def _empty_slot(network: Network, block: Place, path: str, name: str) -> Candidate:
    """Describe a slot; its channels are those of the module before the slot, or of the branch that the slot closes."""
    inside = network.block(block.path)
    source: Source | None = None
    if inside is not None:
        calls = inside.flow.calls_of(name)
        if calls and inside.inputs(calls[0]):
            source = source_of(inside, before_activations(inside, inside.inputs(calls[0])[0]))
        else:
            source = next(iter(ends(inside)), None)
    channels = None
    if source is not None and source.path:
        channels = network.channels.of(network.at[join(block.path, source.path)])[0]
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
    "norm": lambda network: [site_at(network, place) for place in _of_class(network, NORMS)],
    "se": _squeezes,
    "slot": _slots,
    "any": lambda network: [site_at(network, place) for place in network.places if place.path],
}
