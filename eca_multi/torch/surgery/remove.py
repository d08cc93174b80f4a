"""Take ECA out of a torch network."""

from typing import TypeVar

from torch import nn

from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.remove import removed_sites
from eca_multi.torch._unchanged import unchanged_on_error

from ._find.check import check_inside, check_model
from ._find.places import installed
from ._wrap.sites import forget_compiled, unwrap

Model = TypeVar("Model", bound=nn.Module)


def remove_eca(model: Model, include: Pattern | None = None) -> Model:
    """Take ECA out, in place; the modules are as they were.

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
    """
    check_model(model)
    check_inside(model, None)
    with unchanged_on_error(model):
        sites = [site for site, _ in installed(model)]
        for site in removed_sites(type(model).__name__, sites, include):
            unwrap(model, site.module)
        forget_compiled()
        return model
