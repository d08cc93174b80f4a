"""Insert and remove."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flax import linen as nn

from eca_multi.surgery.candidate import Candidate
from eca_multi.surgery.choose import choose as choose_sites
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.replay import replay
from eca_multi.surgery.request import Request, Where

from ._building import build, with_kernels
from ._candidates import Finder
from ._gated import KERNEL, Site, sites_of, with_sites
from ._inputs import check_module, check_variables, flat, is_abstract, like, split_inputs
from ._verify import verify as check_run
from .planning import Overrides, choose, make_request

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
        plan=plan,
    )
    inputs = split_inputs(example_inputs)
    finder = Finder(module, variables, inputs)
    if plan is None:
        plan = choose(request, finder)
        entries = list(plan.entries)
    else:
        entries = replay(plan, "linen", _found(finder, plan))
    if not entries:
        return module, variables
    _check_gate(module, plan)
    built = build(finder, plan, entries)
    new = (built.module, with_kernels(variables, built))
    if _is_verified(verify, is_abstract((variables, inputs))):
        check_run(replace(plan, entries=built.entries), (module, variables), new, inputs)
    return new


def remove_eca(module: nn.Module, variables: Mapping[str, Any], include: Pattern | None = None) -> Network:
    """Return the network without ECA: the module as it was before, and the variables without the kernels.

    Args:
        module, variables: As `insert_eca` returned them, trained since or not; they stay as they are.
        include: Remove these alone: a regular expression, a list of paths or suffixes, or a callable (path, None).

    Raises:
        NoSiteError: If there is no ECA, or `include` matches none.
        UnsupportedModelError: If an ECA stands in the place of an SE block, whose weights are gone.

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
    asked = Request("linen", [c.path for c in candidates], include, kernel_size=1)
    chosen = set(choose_sites(asked, "", candidates).paths)
    replaced = [s.entry.path for s in sites if s.entry.path in chosen and s.entry.action == "replace"]
    if replaced:
        raise UnsupportedModelError(
            f"module must have its SE blocks to get them back. Received: ECA in the place of {', '.join(replaced)}, "
            "whose weights were dropped. Go back to the pair from before insert_eca, or leave these out with include."
        )
    out = [s for s in sites if s.entry.path in chosen]
    return with_sites(module, [s for s in sites if s not in out]), without_kernels(variables, out)


def without_kernels(variables: Mapping[str, Any], sites: Sequence[Site]) -> Any:
    """Return the variables without the kernels of these ECAs."""
    kernels = {("params", *site.keys, *KERNEL) for site in sites}
    return like(variables, {keys: leaf for keys, leaf in flat(variables).items() if keys not in kernels})


def _check_gate(module: nn.Module, plan: ECAPlan) -> None:
    gate = next((site.gate for site in sites_of(module)), plan.gate)
    if gate != plan.gate:
        raise ValueError(
            f"gate must be that of the ECAs that the module has, {gate!r}. Received: gate={plan.gate!r}. "
            "Use one gate for a network, or remove the old ones with remove_eca."
        )


def _is_verified(wanted: bool | None, abstract: bool) -> bool:
    if wanted and abstract:
        raise UnsupportedModelError(
            "verify=True must run the model. Received: shapes in place of values. Pass verify=False."
        )
    return not abstract if wanted is None else wanted


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
