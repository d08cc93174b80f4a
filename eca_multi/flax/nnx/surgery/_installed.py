"""The inserted ECAs of a network, read from the network itself."""

from dataclasses import dataclass

from flax import nnx

from eca_multi.flax.nnx.layers import ECA

from ._gated import NAME, ReplacingECA, base_class, is_gated
from ._modules import Place, parameters, places


@dataclass(frozen=True, eq=False)
class Installed:
    """One inserted ECA: its site, the layer, and where its kernel is in the network's state."""

    place: Place
    layer: ECA
    action: str
    module_type: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.place.path, *self.place.aliases)

    @property
    def kernel_path(self) -> str:
        inner = "" if self.action == "replace" else f"{NAME}."
        return f"{self.place.path}.{inner}kernel".removeprefix(".")


def installed(model: nnx.Module) -> list[Installed]:
    """All of them, in the order of definition where that is kept; an ECA of the network's own author is none."""
    found = []
    for place in places(model):
        if is_gated(place.module):
            found.append(Installed(place, place.module.eca, "after", base_class(place.module).__name__))
        elif isinstance(place.module, ReplacingECA):
            found.append(Installed(place, place.module, "replace", place.module.replaced))
    return found


def base_parameters(model: nnx.Module) -> int:
    """Number of parameters without the inserted ECAs."""
    return parameters(model) - sum(one.layer.kernel.size for one in installed(model))
