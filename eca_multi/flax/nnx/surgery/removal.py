"""Read inserted ECAs back, and take them out."""

import math
from functools import partial
from typing import TypeVar

from flax import nnx

from eca_multi._undo import undone_on_error
from eca_multi.surgery.candidate import Candidate
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from eca_multi.surgery.patterns import Pattern, matches
from eca_multi.surgery.plan import ECAPlan

from . import _gated
from ._installed import Installed, base_parameters, installed
from ._modules import check_model

Model = TypeVar("Model", bound=nnx.Module)


def installed_eca(model: nnx.Module) -> ECAPlan:
    """Return the inserted ECAs as a plan, read from the network itself: after a copy or a reload too.

    Args:
        model: With or without ECA.

    Returns:
        A plan that `insert_eca` carries out on a plain network; without entries where there is no ECA. What a network
        does not say (the reason of a choice, calls, gamma and beta) is left at its default.

    Raises:
        TypeError: If it is no nnx module. UnsupportedModelError: If it is being traced.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import insert_eca, installed_eca
        >>> net = insert_eca(nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0))), "conv")
        >>> installed_eca(net).entries[0].kernel_size
        3

    Source: eca_multi.
    """
    check_model(model)
    found = installed(model)
    gates = sorted({str(one.layer.gate) for one in found})
    gate = gates[0] if gates else "2sigmoid"
    return ECAPlan(
        "nnx",
        _gated.base_class(model).__name__,
        where="paths",
        gate=gate,
        init="identity" if gate == "2sigmoid" else "uniform",
        entries=tuple(_entry(one, gate) for one in found),
        model_parameters=base_parameters(model),
        notes=(f"the gates differ: {', '.join(gates)}",) if len(gates) > 1 else (),
    )


def _entry(one: Installed, gate: str) -> ECAEntry:
    replaced = one.action == "replace"
    return ECAEntry(
        one.place.path,
        action=one.action,
        module_type=one.module_type,
        tensor=f"{one.place.path}: {'input of the SE block' if replaced else 'output'}",
        channels=one.layer.channels,
        layout="channels_first" if one.layer.channel_axis == 1 else "channels_last",
        kernel_size=one.layer.kernel_size,
        parameters=math.prod(one.layer.kernel.shape),
        aliases=one.place.aliases,
        keeps_output=not replaced and gate == "2sigmoid",
    )


def remove_eca(model: Model, include: Pattern | None = None) -> Model:
    """Take the inserted ECAs out again; what is left is the network from before, with the weights it has now.

    Args:
        model: Changed in place.
        include: Of the sites' paths: a regular expression, a list of paths or suffixes, or a callable; None for all.

    Returns:
        The model. Its `nnx.graphdef` is the one from before the insertion.

    Raises:
        NoSiteError: If there is no ECA, or none that `include` matches. UnsupportedModelError: If one stands in the
            place of an SE block, whose weights are gone, or the model is being traced. Whatever is raised, nothing is
            changed.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import insert_eca, remove_eca
        >>> net = nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0)))
        >>> before = nnx.graphdef(net)
        >>> nnx.graphdef(remove_eca(insert_eca(net, "conv"))) == before
        True

    Source: eca_multi.
    """
    check_model(model)
    found = installed(model)
    chosen = [one for one in found if include is None or matches(include, _candidate(one))]
    if not chosen:
        there = f"ECA at {', '.join(one.place.path for one in found[:4])}" if found else "no inserted ECA"
        raise NoSiteError(
            f"model must have an inserted ECA{' that include matches' if include is not None else ''}. "
            f"Received: {there}. installed_eca lists them."
        )
    sites = [one.place.module for one in chosen]
    replaced = [one.place.path for one in chosen if one.action == "replace"]
    if replaced:
        raise UnsupportedModelError(
            f"model must have its SE blocks to get them back. Received: ECA in the place of {', '.join(replaced)}, "
            "whose weights were dropped. Build the network anew, or leave these out with include."
        )
    with undone_on_error([partial(_gated.restore, site, _gated.snapshot(site)) for site in sites]):
        for site in sites:
            _gated.take(site)
        return model


def _candidate(one: Installed) -> Candidate:
    return Candidate(one.place.path, module=one.place.module, aliases=one.place.aliases)
