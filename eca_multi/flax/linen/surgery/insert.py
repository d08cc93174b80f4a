"""Insert ECA in a linen network."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from eca_multi.flax._initializers import kernel_of
from eca_multi.flax._run import Shape, check_whole, is_abstract
from eca_multi.surgery.causality import check_causality
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.replay import candidates_at, replay
from eca_multi.surgery.request import Overrides, Request, Where

from ._find.call import call_with
from ._find.causality import evidence
from ._find.check import check_module
from ._find.finder import Finder
from ._find.variables import check_variables
from ._wrap import Site, sites_of
from .plan import build, plan_for, with_kernels
from .verify import verify as verify_run


def insert_eca(
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
    plan: ECAPlan | None = None,
    verify: bool | None = None,
    method: str = "__call__",
) -> tuple[nn.Module, Any]:
    """Return the network with ECA: a module of the same class with more parameters, and its variables.

    Module and variables that were passed in stay as they are. All paths of parameters stay; each ECA's kernel is new
    at `<path of the site>/eca/kernel`. With `init="identity"` no output changes, bit for bit, in a run operation by
    operation (`jax.jit` may fuse, and so round, differently).

    Args:
        module, variables, where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init,
            pool_axes, causal_axis, keep_causality, example_inputs, overrides, method: As in `plan_eca`.
        plan: Carry out this plan, instead of choosing; then `where` and the other options of a choice are not given.
        verify: Run the network with the example inputs before and after: outputs equal where the plan says so, each
            ECA called as often as its base. None does where the variables and inputs are arrays.

    Returns:
        (module, variables). Where all sites have ECA already: what was passed in.

    Raises:
        PlanMismatchError: If the plan does not fit. CausalityError: If ECAs would carry later positions into earlier
            ones, or one frame into another. VerifyError: If outputs or calls are not as planned. Others as
            `plan_eca`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import insert_eca
        >>> net, x = nn.Sequential([nn.Conv(64, (3, 3)), nn.GroupNorm(8)]), jnp.ones((2, 8, 8, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> net, variables = insert_eca(net, variables, "conv_norm", example_inputs=x)
        >>> variables["params"]["layers_1"]["eca"]["kernel"].shape
        (3, 1, 1)
        >>> net.apply(variables, x).shape
        (2, 8, 8, 64)

    Source: Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020.
    """
    request = Request(
        "linen", where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, pool_axes, causal_axis,
        keep_causality, example_inputs, overrides, plan, verify,
    )  # fmt: skip
    check_module(module)
    check_variables(variables)
    check_whole("variables", variables)
    call = call_with(module, example_inputs, method)
    finder = Finder(module, variables, call)
    is_given = plan is not None
    if plan is None:
        plan = plan_for(request, finder)
    entries = replay(plan, "linen", candidates_at(plan, finder.find))
    if not entries:
        return module, variables
    if request.keep_causality and plan.keep_causality:
        shown = evidence(finder, entries) if is_given else plan.evidence
        check_causality("linen", plan.model, entries, shown)
    _check_gate(module, plan)
    new_module, plan, ecas = build(finder, plan, entries)
    abstract = is_abstract(variables)
    kernels = [(site, _kernel(site, shape, abstract)) for site, shape in ecas]
    new = (new_module, with_kernels(variables, kernels))
    if request.is_verified(abstract=is_abstract((variables, call.inputs))):
        verify_run(plan, (module, variables), new, call)
    return new


def _check_gate(module: nn.Module, plan: ECAPlan) -> None:
    gate = next((site.gate for site in sites_of(module)), plan.gate)
    if gate != plan.gate:
        raise ValueError(
            f"gate must be that of the ECAs that the module has, {gate!r}. Received: gate={plan.gate!r}. "
            "Use one gate for a network, or remove the old ones with remove_eca."
        )


def _kernel(site: Site, shape: Shape, abstract: bool) -> Any:
    return jax.ShapeDtypeStruct(shape, site.dtype) if abstract else kernel_of(site.entry, site.init, shape, site.dtype)
