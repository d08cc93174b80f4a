"""What would be gated, what is gated, and what a checkpoint was trained with."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flax import linen as nn
from flax.core import meta

from eca_multi import __version__
from eca_multi.surgery.choose import choose as choose_sites
from eca_multi.surgery.errors import NoSiteError, PlanMismatchError
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.request import Request, Where

from ._building import build
from ._candidates import Finder
from ._gated import KERNEL, base_class, sites_of, with_sites
from ._inputs import Keys, check_module, check_type, check_variables, count, flat, initial, split_inputs

Overrides = Mapping[str, Mapping[str, Any]]


def plan_eca(
    module: nn.Module,
    variables: Mapping[str, Any],
    where: Where = "residual",
    *,
    include: Pattern | None = None,
    exclude: Pattern | None = None,
    min_channels: int = 0,
    kernel_size: int | None = None,
    gamma: float = 2,
    beta: float = 1,
    gate: str = "2sigmoid",
    init: str = "identity",
    example_inputs: Any = None,
    overrides: Overrides | None = None,
) -> ECAPlan:
    """Return what `insert_eca` would do. Nothing changes; printing the plan is the dry run.

    Args:
        module: Not bound.
        variables: What its `init` returned, or trained ones; shapes (`jax.ShapeDtypeStruct`) will do.
        where: "residual" (the branch right before each residual add), "block" (the same, and the end of blocks of
            those classes that have no add), "conv_norm" (the norm after each convolution, else the convolution),
            "conv", "norm", "se" (in place of each squeeze-and-excitation module), a list of paths as in the
            parameters ("layer1_0/BatchNorm_1"), or a callable (path, module) -> bool.
        include, exclude: A regular expression for the whole path, a list of paths or suffixes, or a callable.
        min_channels: Leave out sites with fewer.
        kernel_size: For all sites; None takes the rule with `gamma` and `beta`.
        gate: "2sigmoid", "sigmoid" or "hard_sigmoid".
        init: "identity" (zero kernels; outputs stay) or "uniform" (the paper's; outputs change).
        example_inputs: What the module is called with: one array, a tuple of positional inputs (train flags among
            them), or a dict of keywords. It must be given: a linen module has no submodules outside a call.
        overrides: {pattern: {"kernel_size": k}} for single sites.

    Returns:
        The plan.

    Raises:
        NoSiteError: If there is nothing to gate, or a pattern or path matches nothing.
        UnsupportedModelError: If the module is bound, or JAX is tracing.
        TypeError, ValueError: If an argument is invalid.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import plan_eca
        >>> net = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8), nn.relu])
        >>> x = jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> plan_eca(net, variables, "conv_norm", example_inputs=x).paths
        ('layers_1',)

    Source: Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020.
    """
    check_module(module)
    check_variables(variables)
    request = make_request(
        where=where,
        include=include,
        exclude=exclude,
        min_channels=min_channels,
        kernel_size=kernel_size,
        gamma=gamma,
        beta=beta,
        gate=gate,
        init=init,
        overrides=overrides,
    )
    finder = Finder(module, variables, split_inputs(example_inputs))
    plan = choose(request, finder)
    return replace(plan, entries=build(finder, plan, plan.entries).entries) if plan.entries else plan


def make_request(**options: Any) -> Request:
    return Request("linen", **options)


def choose(request: Request, finder: Finder) -> ECAPlan:
    """Return the plan, before the shapes of stacked kernels are known."""
    return choose_sites(
        request,
        base_class(finder.module).__name__,
        finder.find(request.kind),
        model_parameters=count(finder.variables) - sum(site.entry.parameters for site in sites_of(finder.module)),
        offers=finder.offers,
    )


def installed_eca(module: nn.Module) -> ECAPlan:
    """Return the plan of the ECAs that a module has; without any where it has none.

    Args:
        module: What `insert_eca` returned, or a copy or an unpickled one.

    Raises:
        TypeError: If it is no linen module.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import insert_eca, installed_eca
        >>> net = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8), nn.relu])
        >>> x = jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> net, variables = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> installed_eca(net).paths
        ('layers_1',)
    """
    check_type(module)
    sites = sites_of(module)
    gate = sites[0].gate if sites else "2sigmoid"
    init = "identity" if all(site.init == "identity" for site in sites) else "uniform"
    entries = tuple(site.entry for site in sites)
    return ECAPlan("linen", base_class(module).__name__, "paths", gate, init, entries=entries, package=__version__)


def infer_plan(
    module: nn.Module, variables: Mapping[str, Any], *, gate: str = "2sigmoid", example_inputs: Any = None
) -> ECAPlan:
    """Return the plan that a checkpoint was trained with, from the keys and shapes of its kernels.

    Args:
        module: The network without ECA.
        variables: Of the network with ECA; shapes will do.
        gate: That it was trained with, which no key tells.
        example_inputs: As in `plan_eca`.

    Raises:
        NoSiteError: If the variables hold no ECA. PlanMismatchError: If they are not those of this module with ECA.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import infer_plan, insert_eca
        >>> net = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8), nn.relu])
        >>> x = jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> _, trained = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> infer_plan(net, trained, example_inputs=x).paths
        ('layers_1',)
    """
    check_module(module)
    check_variables(variables)
    inputs = split_inputs(example_inputs)
    base = with_sites(module, ())
    plain = initial(base, inputs)
    without, there = set(flat(plain["params"])), flat(variables["params"])
    kernels = {
        keys[: -len(KERNEL)]: int(meta.unbox(leaf).shape[-3])
        for keys, leaf in there.items()
        if keys[-len(KERNEL) :] == KERNEL and keys not in without
    }
    if not kernels:
        raise NoSiteError(
            "variables must hold kernels of ECA. Received: no 'eca/kernel' that the module has not itself. "
            "Pass the variables of the network with ECA."
        )
    replaced = {site for site in kernels if _below(site, without) and not _below(site, set(there) - {(*site, *KERNEL)})}
    gone = {keys for site in replaced for keys in _below(site, without)}
    _check_rest(without - gone, set(there) - {(*site, *KERNEL) for site in kernels})

    paths = {"/".join(site): k for site, k in kernels.items()}
    request = make_request(
        where=list(paths),
        gate=gate,
        init="identity" if gate == "2sigmoid" else "uniform",
        overrides={re.escape(path): {"kernel_size": k} for path, k in paths.items()},
    )
    finder = Finder(base, plain, inputs)
    instead = {c.path: c for c in finder.find("se") if tuple(c.path.split("/")) in replaced}
    candidates = [instead.get(c.path, c) for c in finder.find("any")]
    plan = choose_sites(request, base_class(module).__name__, candidates, model_parameters=count(plain))
    return replace(plan, entries=build(finder, plan, plan.entries).entries)


def _below(site: Keys, keys: set[Keys]) -> set[Keys]:
    return {one for one in keys if one[: len(site)] == site}


def _check_rest(wanted: set[Keys], there: set[Keys]) -> None:
    differences = [f"{'/'.join(keys)} is missing" for keys in sorted(wanted - there)]
    differences += [f"{'/'.join(keys)} is unexpected" for keys in sorted(there - wanted)]
    if differences:
        raise PlanMismatchError(
            f"variables must be those of this module with ECA. Received: {len(differences)} differences: "
            f"{'; '.join(differences)}. Pass the module that they were trained with."
        )
