"""Take ECA out again, and read back what is in."""

from typing import TypeVar

from torch import nn

from eca_multi import __version__
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from eca_multi.surgery.patterns import Pattern, matches, unmatched
from eca_multi.surgery.plan import ECAPlan
from eca_multi.torch.layers import ECA

from ._candidates import Finder
from ._gated import Gated
from ._modules import Found, check_model, walk
from ._trees import parent_of, parents
from ._unchanged import unchanged_on_error
from .insertion import base_parameters, empty_slot, is_inserted

Model = TypeVar("Model", bound=nn.Module)


def installed(model: nn.Module) -> list[tuple[Found, ECA]]:
    """The sites with an ECA that surgery put there, and the ECA."""
    sites = [(one, one.module.eca if isinstance(one.module, Gated) else one.module) for one in walk(model)]
    return [(one, eca) for one, eca in sites if isinstance(eca, ECA) and is_inserted(eca)]


def installed_eca(model: nn.Module) -> ECAPlan:
    """Return the plan of the ECAs in a live network; it holds for copies and reloaded ones too.

    Args:
        model: A network with ECA.

    Returns:
        The plan; without entries where there is none. Its `init` is "identity" where the gate is 2*sigmoid.

    Raises:
        TypeError, UnsupportedModelError: As `plan_eca`. ValueError: If two gates are in one network.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import insert_eca, installed_eca
        >>> installed_eca(insert_eca(nn.Sequential(nn.Conv2d(3, 8, 3)), "conv")).paths
        ('0',)

    Source: eca_multi.
    """
    check_model(model)
    found = installed(model)
    gates = {str(eca.gate) for _, eca in found}
    if len(gates) > 1:
        raise ValueError(
            f"The ECAs of a network must have one gate for one plan. Received: {', '.join(sorted(gates))}. "
            "Read them one by one: module.eca.gate."
        )
    gate = next(iter(gates), "2sigmoid")
    finder = Finder(model)
    return ECAPlan(
        "torch",
        type(model).__name__,
        where="installed",
        gate=gate,
        init="identity" if gate == "2sigmoid" else "uniform",
        entries=tuple(_entry(finder, one, eca) for one, eca in found),
        model_parameters=base_parameters(model),
        package=__version__,
    )


def _entry(finder: Finder, one: Found, eca: ECA) -> ECAEntry:
    candidate = finder.candidate(one)
    kept = eca.inserted == "after" and eca.init == "identity"
    kind = f"slot of {type(finder.at[parent_of(one.path)[0]].module).__name__}" if eca.inserted == "fill" else ""
    return ECAEntry(
        path=one.path,
        action=str(eca.inserted),
        module_type=kind or ("" if eca.inserted == "replace" else candidate.module_type),
        tensor=candidate.tensor,
        channels=eca.channels,
        layout="channels_first" if eca.channel_axis == 1 else "channels_last",
        kernel_size=eca.kernel_size,
        parameters=eca.conv.weight.numel(),
        aliases=one.aliases,
        keeps_output=kept,
    )


def remove_eca(model: Model, include: Pattern | None = None) -> Model:
    """Take ECA out, in place; the old modules are back where they stood.

    Args:
        model: A network with ECA.
        include: Take these sites alone: a regular expression for the whole path, a list of paths or suffixes, or a
            callable (path, module).

    Returns:
        The model.

    Raises:
        NoSiteError: If `include` matches nothing, or there is no ECA. UnsupportedModelError: If an ECA stands in the
            place of an SE block, which is gone. Whatever is raised, nothing is changed.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import insert_eca, remove_eca
        >>> remove_eca(insert_eca(nn.Sequential(nn.Conv2d(3, 8, 3)), "conv"))
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        )

    Source: eca_multi.
    """
    check_model(model)
    with unchanged_on_error(model):
        for one, eca in _chosen(model, include):
            if isinstance(one.module, Gated):
                for above, name in parents(model, one.module):
                    above._modules[name] = one.module.base
            else:
                for above, name in parents(model, eca):
                    empty_slot(above, name, nn.Identity() if eca.filled == "Identity" else None)
        return model


def _chosen(model: nn.Module, include: Pattern | None) -> list[tuple[Found, ECA]]:
    finder = Finder(model)
    found = installed(model)
    if not found:
        raise NoSiteError(f"model must have ECA. Received: a {type(model).__name__} without it. Call insert_eca first.")
    if include is not None:
        chosen = [(one, eca) for one, eca in found if matches(include, finder.candidate(one))]
        if not chosen:
            raise NoSiteError(unmatched("include", [include], [one.path for one, _ in found]))
        found = chosen
    gone = [one.path for one, eca in found if eca.inserted == "replace"]
    if gone:
        raise UnsupportedModelError(
            f"Sites must still have what stood there. Received: {', '.join(gone)}, where ECA replaced an SE block. "
            "Build the network anew, or leave these out by include."
        )
    return found
