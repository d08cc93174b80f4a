"""Insert and remove."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import core
from flax import linen as nn
from flax.core import meta

from eca_multi._sites import Candidate, Pattern, Request, Where, replay
from eca_multi.flax.linen.surgery._candidates import Finder
from eca_multi.flax.linen.surgery._gated import KERNEL, Site, sites_of, with_sites
from eca_multi.flax.linen.surgery._inputs import (
    Inputs,
    Keys,
    check_module,
    check_variables,
    flat,
    is_abstract,
    like,
    runner,
    split_inputs,
)
from eca_multi.flax.linen.surgery._verify import verify as check_run
from eca_multi.flax.linen.surgery.planning import Overrides, make_plan, make_request
from eca_multi.plan import ECAPlan, NoSiteError

Network = tuple[nn.Module, Any]


def insert_eca(
    module: nn.Module,
    variables: Mapping[str, Any],
    where: Where = "residual",
    *,
    plan: ECAPlan | None = None,
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
    inplace: bool = False,
    verify: bool | None = None,
    rng: jax.Array | None = None,
) -> Network:
    """Return the network with ECA: a module of the same class with more parameters, and its variables.

    Module and variables that were passed in stay as they are. All paths of parameters stay; each ECA's kernel is new
    at `<path of the site>/eca/kernel`. With `init="identity"` no output changes, bit for bit, in a run operation by
    operation (`jax.jit` may fuse, and so round, differently).

    Args:
        module, variables, where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init,
            example_inputs, overrides: As in `plan_eca`.
        plan: Carry out this one, instead of choosing; then `where` and the other options of a choice are not given.
        inplace: Only False: linen modules and variables are not changed.
        verify: Run the network with the example inputs before and after: outputs equal where the plan says so, each
            ECA called as often as its base. None does where the variables and inputs are arrays.
        rng: Key for `init="uniform"`, which alone draws random numbers.

    Returns:
        (module, variables). Where all sites have ECA already: what was passed in.

    Raises:
        NoSiteError: If there is nothing to gate, or a pattern or path matches nothing.
        UnsupportedModelError: If the module is bound, or JAX is tracing.
        PlanMismatchError: If the plan is of another architecture.
        VerifyError: If the network does not do what the plan says.
        TypeError, ValueError: If an argument is invalid.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import insert_eca
        >>> net = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8), nn.relu])
        >>> x = jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> net, variables = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> variables["params"]["layers_1"]["eca"]["kernel"].shape
        (3, 1, 1)
        >>> net.apply(variables, x).shape
        (2, 8, 8, 64)

    Source: Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020.
    """
    check_module(module)
    check_variables(variables)
    if inplace:
        raise TypeError(
            "inplace must be False. Received: inplace=True. Linen modules do not change: use the pair that "
            "insert_eca returns."
        )
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
    inputs = split_inputs(example_inputs)
    finder = Finder.of(module, variables, inputs)
    if plan is None:
        plan = make_plan(module, request, finder)
        entries = list(plan.entries)
    else:
        _check_alone(plan, request)
        entries = replay(plan, "linen", _found(finder, plan))
    if not entries:
        return module, variables
    sites = [Site(e, plan.gate, plan.init, _dtype(variables, e.path)) for e in entries]
    _check_gate(sites_of(module), sites)
    order = {path: number for number, path in enumerate(finder.seen)}
    every = sorted((*sites_of(module), *sites), key=lambda site: order[site.entry.path])
    new = with_sites(module, every)
    filled = _filled(new, variables, sites, inputs, rng)
    abstract = is_abstract((variables, inputs))
    if verify and abstract:
        raise ValueError(
            "verify must be None or False where there are shapes instead of arrays. Received: verify=True. "
            "Pass arrays as variables and example_inputs."
        )
    if verify or (verify is None and not abstract):
        check_run(plan_of(plan, entries), (module, variables), (new, filled), inputs)
    return new, filled


def remove_eca(module: nn.Module, variables: Mapping[str, Any], include: Pattern | None = None) -> Network:
    """Return the network without ECA: the module as it was before, and the variables without the kernels.

    Args:
        module, variables: As `insert_eca` returned them, trained since or not; they stay as they are.
        include: Remove these alone: a regular expression, a list of paths or suffixes, or a callable (path, None).

    Raises:
        NoSiteError: If there is no ECA, or `include` matches none.
        ValueError: If an ECA stands in the place of an SE block, whose parameters are gone.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import insert_eca, remove_eca
        >>> net = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8), nn.relu])
        >>> x = jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> with_eca = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> remove_eca(*with_eca)[0] == net
        True
    """
    check_module(module)
    check_variables(variables)
    sites = sites_of(module)
    if not sites:
        raise NoSiteError(
            f"module must have ECA. Received: a {type(module).__name__} without any. Pass what insert_eca returned."
        )
    candidates = [
        Candidate(s.entry.path, channels=s.entry.channels or None, module_type=s.entry.module_type) for s in sites
    ]
    chosen = set(Request([c.path for c in candidates], include, kernel_size=1).plan("linen", "", candidates).paths)
    replaced = [s.entry.path for s in sites if s.entry.path in chosen and s.entry.action == "replace"]
    if replaced:
        raise ValueError(
            f"ECA must not stand in the place of an SE block to be removed. Received: {', '.join(replaced)}, whose "
            "old parameters are gone. Go back to the module and variables from before insert_eca."
        )
    out = [s for s in sites if s.entry.path in chosen]
    return with_sites(module, [s for s in sites if s not in out]), without_kernels(variables, out)


def without_kernels(variables: Mapping[str, Any], sites: Sequence[Site]) -> Any:
    """Return the variables without the kernels of these ECAs."""
    kernels = {("params", *site.keys, *KERNEL) for site in sites}
    return like(variables, {keys: leaf for keys, leaf in flat(variables).items() if keys not in kernels})


def plan_of(plan: ECAPlan, entries: Sequence[Any]) -> ECAPlan:
    """The plan with these entries alone."""
    return replace(plan, entries=tuple(entries))


def _check_alone(plan: ECAPlan, request: Request) -> None:
    if not isinstance(plan, ECAPlan):
        raise TypeError(
            f"plan must be an ECAPlan. Received: {type(plan).__name__}. Make it with plan_eca or ECAPlan.load."
        )
    if request != Request():
        raise ValueError(
            "plan must be given without where and the other options of a choice. Received: both. "
            "Change the options of plan_eca, or leave the plan out."
        )


def _check_gate(old: Sequence[Site], new: Sequence[Site]) -> None:
    if old and old[0].gate != new[0].gate:
        raise ValueError(
            f"gate must be that of the ECAs that the module has, {old[0].gate!r}. Received: gate={new[0].gate!r}. "
            "Use one gate for a network, or remove the old ones with remove_eca."
        )


def _found(finder: Finder, plan: ECAPlan) -> dict[str, Candidate]:
    """What is at the plan's paths."""
    found = {c.path: c for c in finder.find("any")}
    if any(entry.action == "replace" for entry in plan.entries):
        blocks = {c.path: c for c in finder.find("se")}
        for entry in plan.entries:
            if entry.action == "replace" and entry.path in found:
                missing = Candidate(entry.path, reason="is no SE block")
                found[entry.path] = blocks.get(entry.path, missing)
    return found


def _dtype(variables: Mapping[str, Any], path: str) -> str:
    """Of the site's parameters; of the network's first where the site has none."""
    params = variables["params"]
    tree: Any = params
    for key in path.split("/"):
        tree = tree.get(key, {}) if isinstance(tree, Mapping) else {}
    floating = [leaf for leaf in jax.tree.leaves((tree, params)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return str(floating[0].dtype) if floating else "float32"


def _filled(
    new: nn.Module, variables: Mapping[str, Any], sites: Sequence[Site], inputs: Inputs, rng: jax.Array | None
) -> Any:
    """Return the variables with the new kernels, and without the parameters of what is replaced."""
    gone = [("params", *site.keys) for site in sites if site.entry.action == "replace"]
    leaves = {keys: leaf for keys, leaf in flat(variables).items() if not any(keys[: len(g)] == g for g in gone)}
    base = like(variables, leaves)
    # Under a scan the kernel is stacked, so its shape is read from an abstract run that makes it.
    run, arrays = runner(new, inputs, mutable=core.DenyList(("intermediates",)))
    made = flat(jax.eval_shape(run, base, arrays)[1]["params"])
    for number, site in enumerate(sites):
        keys: Keys = (*site.keys, *KERNEL)
        shape = meta.unbox(made[keys]).shape
        leaves["params", *keys] = _kernel(site, shape, rng, number, is_abstract(variables))
    return like(variables, leaves)


def _kernel(site: Site, shape: tuple[int, ...], rng: jax.Array | None, number: int, abstract: bool) -> Any:
    if abstract:
        return jax.ShapeDtypeStruct(shape, site.dtype)
    if site.init == "identity":
        return jnp.zeros(shape, site.dtype)
    if rng is None:
        raise ValueError(
            "rng must be a key where init='uniform'. Received: None. Pass jax.random.key(0), or use init='identity'."
        )
    bound = site.entry.kernel_size**-0.5
    return jax.random.uniform(jax.random.fold_in(rng, number), shape, site.dtype, -bound, bound)
