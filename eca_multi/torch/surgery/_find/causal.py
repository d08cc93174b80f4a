"""Whether a torch network looks at no later position, or at one frame at a time: what its modules say, and the probe.

torch has no causal convolution of its own. A network pads in front and convolves, or pads on both sides and cuts the
end off (a "chomp"); where the forward does so without a module, the run on example inputs shows it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from eca_multi.surgery.causality import Evidence, combined, grouped, not_probed
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.plan import ECAPlan

from .flow import Untraceable
from .network import Network
from .places import children
from .probed import probed

CONVS = (nn.Conv1d, nn.Conv3d)
PADS = (nn.ConstantPad1d, nn.ReflectionPad1d, nn.ReplicationPad1d, nn.ConstantPad3d, nn.ReplicationPad3d)
RANKS = {1: 3, 3: 5}  # of tensors with so many spatial axes; in front stands time


def with_evidence(network: Network, plan: ECAPlan, entries: Sequence[ECAEntry]) -> ECAPlan:
    """Return the plan with what shows that plain ECA at these sites would mix positions that are to stay apart.

    What the plan knows already, of a run elsewhere perhaps, counts as what modules say: a run that can tell decides.
    """
    if not entries:
        return plan
    found = probed(network, entries)
    evidence = combined(found, (*plan.evidence, *_said(network, entries)))
    notes = dict.fromkeys((*plan.notes, *not_probed(found)))
    return replace(plan, evidence=evidence, notes=tuple(notes))


def _said(network: Network, entries: Sequence[ECAEntry]) -> Iterator[Evidence]:
    """Yield what modules say; of networks that look ahead elsewhere, as far as their modules tell, nothing."""
    modules = [place.module for place in network.places]
    for dims in RANKS:
        signs = [f"{words} at {path}" for path, words, axes in _signs(network) if axes == dims]
        chomps = any(words.lower().startswith("chomp") for words in signs)
        if not signs or (not chomps and any(_looks_ahead(module, dims) for module in modules)):
            continue
        if any(isinstance(module, nn.RNNBase) and module.bidirectional for module in modules):
            continue
        sites = [(entry.path, "causal", 0, RANKS[dims]) for entry in entries if _rank(network, entry) == RANKS[dims]]
        more = f" and {len(signs) - 1} more" if len(signs) > 1 else ""
        yield from grouped(sites, f"{signs[0]}{more}")


def _signs(network: Network) -> Iterator[tuple[str, str, int]]:
    """Yield what says that later positions are not to be seen: where, in words, and for how many spatial axes."""
    for place in network.places:
        module, name = place.module, type(place.module).__name__
        inner = [child for _, child in children(module)]
        if name.lower().startswith("chomp"):
            yield place.path, name, 1
        elif "causal" in name.lower() and any(isinstance(m, CONVS) for m in (module, *inner)):
            yield place.path, name, 3 if any(isinstance(m, nn.Conv3d) for m in (module, *inner)) else 1
        elif isinstance(module, PADS) and (dims := _pads_front(module.padding)):
            yield place.path, f"{name}{tuple(module.padding)}", dims
        elif isinstance(module, nn.RNNBase) and not module.bidirectional:
            if all(m.kernel_size == (1,) for m in (p.module for p in network.places) if isinstance(m, nn.Conv1d)):
                yield place.path, name, 1
        elif any(isinstance(child, CONVS) for child in inner):
            flow = network.flow(place.path)
            for step in () if isinstance(flow, Untraceable) else flow.steps:
                if step.name == "pad" and step.arguments and (dims := _pads_front(step.arguments[0])):
                    yield place.path, f"F.pad(x, {tuple(step.arguments[0])})", dims


def _pads_front(padding: Any) -> int:
    """Return over how many spatial axes a padding reaches that pads the first of them in front alone; 0 if it differs.

    torch counts from the last axis: (left, right) for a sequence, (left, right, top, bottom, front, back) for a video.
    """
    if not isinstance(padding, Sequence) or not all(isinstance(size, int) for size in padding):
        return 0
    *others, front, back = padding
    is_even = all(others[i] == others[i + 1] for i in range(0, len(others), 2))
    return len(padding) // 2 if len(padding) in (2, 6) and front > 0 == back and is_even else 0


def _looks_ahead(module: nn.Module, dims: int) -> bool:
    """Whether a convolution pads behind along the first spatial axis."""
    kind = nn.Conv1d if dims == 1 else nn.Conv3d
    if not isinstance(module, kind) or module.kernel_size[0] == 1:
        return False
    return module.padding == "same" or (not isinstance(module.padding, str) and module.padding[0] > 0)


def _rank(network: Network, entry: ECAEntry) -> int:
    shape = network.run.shapes.get(entry.path) if network.run else None
    dims = next((dims for dims in RANKS if entry.module_type.endswith(f"{dims}d")), 0)
    return len(shape) if shape else RANKS.get(dims, 0)
