"""Take ECA out of a linen network."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from eca_multi.surgery.candidate import Candidate
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.remove import removed_sites

from ._find.check import check_module
from ._find.variables import check_variables, flat, like
from ._wrap import KERNEL, Site, base_class, sites_of, with_sites


def remove_eca(
    module: nn.Module, variables: Mapping[str, Any], include: Pattern | None = None
) -> tuple[nn.Module, Any]:
    """Return the network without ECA: the module as it was before, and the variables without the kernels.

    Args:
        module, variables: As `insert_eca` returned them, trained since or not; they stay as they are.
        include: Remove these ECAs alone: a regular expression, a list of paths or suffixes, or a callable (path, None).

    Raises:
        NoSiteError: If there is no ECA, or `include` matches none.
        UnsupportedModelError: If an ECA stands in the place of an SE block, whose weights are gone.
        TypeError, ValueError: If an argument is invalid.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import insert_eca, remove_eca
        >>> net, x = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8)]), jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> with_eca = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> remove_eca(*with_eca)[0] == net
        True
    """
    check_module(module)
    check_variables(variables)
    sites = sites_of(module)
    installed = [Candidate(site.entry.path, action=site.entry.action) for site in sites]
    paths = {candidate.path for candidate in removed_sites(base_class(module).__name__, installed, include)}
    removed = [site for site in sites if site.entry.path in paths]
    return with_sites(module, [site for site in sites if site not in removed]), without_kernels(variables, removed)


def without_kernels(variables: Mapping[str, Any], sites: Sequence[Site]) -> Any:
    kernels = {("params", *site.keys, *KERNEL) for site in sites}
    return like(variables, {keys: leaf for keys, leaf in flat(variables).items() if keys not in kernels})
