"""Say where ECA would be inserted in a linen network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from flax import core
from flax import linen as nn
from flax.core import meta

from eca_multi._printable import PrintableError
from eca_multi.flax._run import Shape, check_whole, stacked_note
from eca_multi.surgery.choose import choose
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.request import Overrides, Request, Where
from eca_multi.surgery.verify import did_not_run

from ._find.call import Call, call_with, runner
from ._find.causality import evidence
from ._find.check import check_module
from ._find.finder import Finder
from ._find.variables import Keys, below, check_variables, count, flat, like
from ._wrap import KERNEL, Site, base_class, sites_of, with_sites


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
    pool_axes: int | Sequence[int] | None = None,
    causal_axis: int | None = None,
    keep_causality: bool = True,
    example_inputs: Any = None,
    overrides: Overrides | None = None,
    method: str = "__call__",
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
        kernel_size, gamma, beta, gate: As in `ECA`.
        init: "identity" keeps the outputs bit-equal, "uniform" is the paper's.
        pool_axes, causal_axis: As in `ECA`; the axes count in (N, *S, C) for a site of the same rank. At a site with
            another channel axis the same spatial axes are meant.
        keep_causality: Find out whether the network sees no later positions, or one frame at a time, so that
            `insert_eca` refuses ECAs that would break that. False does not look, and inserts all the same.
        example_inputs: What the module is called with: one array, a tuple of positional inputs (train flags among
            them), or a dict of keywords. They must be given: a linen module has no submodules outside a call.
        overrides: {pattern: {"kernel_size": k, "channel_axis": 1 or -1, "pool_axes": axes, "causal_axis": axis}}, or
            some of these.
        method: Name of the method that takes the inputs, for a network that is called by another one than `__call__`.

    Returns:
        The plan, with a reason for each candidate that is left out.

    Raises:
        NoSiteError: If no site is found, or a pattern matches nothing. UnsupportedModelError: If the module is bound,
            or JAX is tracing. TypeError, ValueError: If an argument is invalid.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import plan_eca
        >>> net, x = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8)]), jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> plan_eca(net, variables, "conv_norm", example_inputs=x).paths
        ('layers_1',)

    Source: Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020.
    """
    request = Request(
        "linen", where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, pool_axes, causal_axis,
        keep_causality, example_inputs, overrides,
    )  # fmt: skip
    check_module(module)
    check_variables(variables)
    check_whole("variables", variables)
    finder = Finder(module, variables, call_with(module, example_inputs, method))
    plan = plan_for(request, finder)
    return build(finder, plan, plan.entries)[1] if plan.entries else plan


def plan_for(request: Request, finder: Finder) -> ECAPlan:
    """Choose among the sites of a network; the shapes of stacked kernels are not known yet."""
    inserted = sum(site.entry.parameters for site in sites_of(finder.module))
    plan = choose(
        request,
        base_class(finder.module).__name__,
        finder.find(request.kind),
        model_parameters=count(finder.variables["params"]) - inserted,
        offers=finder.offers,
    )
    return replace(plan, evidence=evidence(finder, plan.entries) if request.keep_causality else ())


def build(
    finder: Finder, plan: ECAPlan, entries: Sequence[ECAEntry]
) -> tuple[nn.Module, ECAPlan, list[tuple[Site, Shape]]]:
    """Carry out entries of a plan beside the ECAs that a module has.

    Return the module, the plan with these entries as they were carried out, and each new ECA with its kernel's shape.
    """
    sites = [Site(entry, plan.gate, plan.init, _dtype(finder.variables, entry.path)) for entry in entries]
    module, order = finder.module, {path: number for number, path in enumerate(finder.called)}

    def with_new(new: Sequence[Site]) -> nn.Module:
        return with_sites(module, sorted((*sites_of(module), *new), key=lambda site: order[site.entry.path]))

    variables = without_replaced(finder.variables, sites)
    try:
        shapes = _kernel_shapes(with_new(sites), variables, sites, finder.call)
    except PrintableError:  # our own, complete
        raise
    except Exception as error:
        raise did_not_run(error) from error
    sites = [replace(site, entry=_with_shape(site.entry, shape)) for site, shape in zip(sites, shapes, strict=True)]
    plan = replace(plan, entries=tuple(site.entry for site in sites))
    return with_new(sites), plan, list(zip(sites, shapes, strict=True))


def _kernel_shapes(module: nn.Module, variables: Any, sites: Sequence[Site], call: Call) -> list[Shape]:
    """Return the shapes of the sites' kernels, from an abstract run that makes them: stacked under a scan or a vmap."""
    run, arrays = runner(module, call, mutable=core.DenyList(("intermediates",)))
    try:
        made = flat(jax.eval_shape(run, variables, arrays)[1]["params"])
    except TypeError:
        # Both branches of a cond must make the same kernels, and one branch may not call the site. A run that is given
        # the kernels does not make them; a kernel that would have to be stacked does not fit there.
        single: list[Shape] = [(site.entry.kernel_size, 1, 1) for site in sites]
        new = [(site, jax.ShapeDtypeStruct(shape, site.dtype)) for site, shape in zip(sites, single, strict=True)]
        run, arrays = runner(module, call)
        jax.eval_shape(run, with_kernels(variables, new), arrays)
        return single
    return [tuple(meta.unbox(made[(*site.keys, *KERNEL)]).shape) for site in sites]


def with_kernels(variables: Mapping[str, Any], new: Sequence[tuple[Site, Any]]) -> Any:
    """Return the variables with new kernels, and without the parameters of replaced SE blocks."""
    leaves = flat(without_replaced(variables, [site for site, _ in new]))
    return like(variables, leaves | {("params", *site.keys, *KERNEL): kernel for site, kernel in new})


def without_replaced(variables: Mapping[str, Any], sites: Sequence[Site]) -> Any:
    """Return the variables without the parameters of the SE blocks that these sites replace."""
    replaced: list[Keys] = [("params", *site.keys) for site in sites if site.entry.action == "replace"]
    if not replaced:
        return variables
    kept = {k: leaf for k, leaf in flat(variables).items() if not any(k[: len(r)] == r for r in replaced)}
    return like(variables, kept)


def _with_shape(entry: ECAEntry, shape: Shape) -> ECAEntry:
    notes = dict.fromkeys((*entry.notes, *stacked_note(shape[:-3])))
    return replace(entry, parameters=prod(shape), notes=tuple(notes))


def _dtype(variables: Mapping[str, Any], path: str) -> str:
    """Return the dtype of the site's parameters; of the network's first parameter where the site has none."""
    params = variables["params"]
    leaves = jax.tree.leaves((below(params, tuple(path.split("/"))), params))
    return next((str(leaf.dtype) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)), "float32")
