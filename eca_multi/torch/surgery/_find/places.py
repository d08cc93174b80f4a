"""Where each module hangs in a network, under the names that the network has without ECA."""

from collections.abc import Iterator

from torch import nn

from eca_multi.surgery.candidate import Candidate, Place, by_module
from eca_multi.torch._private import child_table
from eca_multi.torch.layers import ECA
from eca_multi.torch.surgery._wrap.gate import gate_of, is_behind
from eca_multi.torch.surgery._wrap.sites import is_inserted, parent_of


def places(model: nn.Module) -> list[Place]:
    """Return each module once, in the network's order; not an ECA behind a module, nor what is inside of an ECA."""
    return by_module(_plain_paths(model))


def _plain_paths(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    hidden: tuple[str, ...] = ()
    for path, module in model.named_modules(remove_duplicate=False):
        if path.startswith(hidden):
            continue
        if isinstance(module, ECA):
            hidden += (f"{path}.",)
        if not is_behind(module):
            yield path, module


def installed(model: nn.Module) -> list[tuple[Candidate, ECA]]:
    """Return the ECAs that surgery inserted with their sites, in the network's order."""
    ecas = []
    for place in places(model):
        layer = gate_of(place.module) or place.module
        if isinstance(layer, ECA) and is_inserted(layer):
            above = type(model.get_submodule(parent_of(place.path)[0])).__name__
            kinds = {"after": type(place.module).__name__, "fill": f"slot of {above}"}
            site = Candidate(
                path=place.path,
                module=place.module,
                action=layer.inserted,
                module_type=kinds.get(layer.inserted, ""),  # the class of a replaced SE block is not kept
                tensor=f"the output of {place.path}",
                channels=layer.channels,
                layout="channels_first" if layer.channel_axis == 1 else "channels_last",
                aliases=place.aliases,
                pool_axes=getattr(layer, "pool_axes", None),  # layers that an earlier version pickled have none
                causal_axis=getattr(layer, "causal_axis", None),
                keeps_output=layer.inserted != "replace",
            )
            ecas.append((site, layer))
    return ecas


def base_parameters(model: nn.Module) -> int:
    inserted = {id(p) for module in model.modules() if is_inserted(module) for p in module.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in inserted and not nn.parameter.is_lazy(p))


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every child under each of its names but an ECA behind the module; `named_children` names each once."""
    own = child_table(module).items()
    return [(name, child) for name, child in own if child is not None and not is_behind(child)]


def join(above: str, name: str) -> str:
    return ".".join(part for part in (above, name) if part)
