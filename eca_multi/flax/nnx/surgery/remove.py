"""Take ECA out of an nnx network."""

from typing import TypeVar

from flax import nnx

from eca_multi._undo import undone_on_error
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.remove import removed_sites

from ._find.check import check_model
from ._find.places import installed
from ._wrap import base_class, undo_for, unwrap

Model = TypeVar("Model", bound=nnx.Module)


def remove_eca(model: Model, include: Pattern | None = None) -> Model:
    """Take the inserted ECAs out again: the network from before comes back, with its present weights.

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
    """
    check_model(model)
    sites = [site for site, _ in installed(model)]
    modules = [site.module for site in removed_sites(base_class(model).__name__, sites, include)]
    with undone_on_error([undo_for(module) for module in modules]):
        for module in modules:
            unwrap(module)
        return model
