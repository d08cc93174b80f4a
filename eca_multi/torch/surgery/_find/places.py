"""Where each module hangs in a network, under the names that the network has without ECA."""

from collections.abc import Iterator

from torch import nn

from eca_multi.surgery.candidate import Candidate, Place, by_module
from eca_multi.torch.layers import ECA
from eca_multi.torch.surgery._wrap import Gated, base_of, is_inserted, parent_of


def places(model: nn.Module) -> list[Place]:
    """Return each module once, in the network's order; a gated module stands for its base, an ECA for itself."""
    return by_module(_plain_paths(model))


def _plain_paths(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    modules: dict[str, nn.Module] = {}
    plain_paths: dict[str, str | None] = {}  # by the path in the network; None inside of an ECA
    for path, module in model.named_modules(remove_duplicate=False):
        above, name = parent_of(path)
        parent, plain = (modules[above], plain_paths[above]) if path else (None, "")
        if isinstance(parent, ECA) or (isinstance(parent, Gated) and name != "base"):
            plain = None
        elif path and plain is not None and not isinstance(parent, Gated):
            plain = join(plain, name)
        modules[path], plain_paths[path] = module, plain
        if plain is not None and not isinstance(parent, Gated):
            yield plain, module


def installed(model: nn.Module) -> list[tuple[Candidate, ECA]]:
    """Return the ECAs that surgery inserted with their sites, in the network's order."""
    ecas = []
    for place in places(model):
        layer = place.module.eca if isinstance(place.module, Gated) else place.module
        if isinstance(layer, ECA) and is_inserted(layer):
            above = type(base_of(model.get_submodule(parent_of(place.path)[0]))).__name__
            kinds = {"after": type(base_of(place.module)).__name__, "fill": f"slot of {above}"}
            site = Candidate(
                path=place.path,
                module=place.module,
                action=layer.inserted,
                module_type=kinds.get(layer.inserted, ""),  # the class of a replaced SE block is not kept
                tensor=f"the output of {place.path}",
                channels=layer.channels,
                layout="channels_first" if layer.channel_axis == 1 else "channels_last",
                aliases=place.aliases,
                keeps_output=layer.inserted != "replace",
            )
            ecas.append((site, layer))
    return ecas


def base_parameters(model: nn.Module) -> int:
    inserted = {id(p) for module in model.modules() if is_inserted(module) for p in module.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in inserted and not nn.parameter.is_lazy(p))


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every child under each of its names; `named_children` leaves out second names."""
    return [(path, child) for path, child in module.named_modules(remove_duplicate=False) if path and "." not in path]


def join(above: str, name: str) -> str:
    return ".".join(part for part in (above, name) if part)
