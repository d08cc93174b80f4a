"""Insert ECA in an nnx network."""

from collections.abc import Sequence
from dataclasses import replace as changed
from typing import Any, TypeVar

import jax
from flax import nnx

from eca_multi._undo import undone_on_error
from eca_multi.flax._method import check_method
from eca_multi.flax._owned import copied
from eca_multi.flax._run import check_whole, is_abstract
from eca_multi.surgery.causality import check_causality
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.replay import replay
from eca_multi.surgery.request import Overrides, Request, Where, check_flag

from ._find.causality import evidence
from ._find.check import check_model
from ._find.kinds import find
from ._find.network import Network
from ._find.places import places
from ._wrap import layer_for, undo_for, wrap
from .plan import plan_for, sized
from .verify import verify as verify_run

Model = TypeVar("Model", bound=nnx.Module)


def insert_eca(
    model: Model,
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
    inplace: bool = True,
    method: str = "__call__",
) -> Model:
    """Insert ECA; right after the insertion the model returns what it returned before, bit for bit.

    The outputs are equal operation by operation. Under `jax.jit` XLA compiles another program, which may round a last
    digit differently.

    Each site stays the same object with the same variables under the same paths, and gains a child `eca` with a kernel
    of type `ECAParam`. Insert before you make an `nnx.Optimizer`: an older one does not know the kernels and raises.

    Args:
        model: As in `plan_eca`.
        where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, pool_axes, causal_axis,
            keep_causality, example_inputs, overrides, method: As in `plan_eca`.
        plan: Carry out this plan, of this model or of another model of the same architecture; then no other option of
            a choice may be given.
        inplace: Change the model itself; False changes a copy with copied arrays.
        verify: Run the model before and after and compare; None does so if there are example inputs.

    Returns:
        The model with ECA. A site that already has ECA stays as it is.

    Raises:
        PlanMismatchError: If the plan does not fit. CausalityError: If ECAs would carry later positions into earlier
            ones, or one frame into another. VerifyError: If outputs differ that were promised equal, or an ECA
            is not called as often as its site. Others as `plan_eca`. After an error the model is as it was.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import insert_eca, installed_eca
        >>> net = nnx.Sequential(nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)), nnx.relu)
        >>> net = insert_eca(net, "conv", example_inputs=jnp.zeros((1, 8, 8, 3)))
        >>> installed_eca(net).paths
        ('layers.0',)

    Source: Wang et al., ECA-Net, CVPR 2020.
    """
    request = Request(
        "nnx", where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, pool_axes, causal_axis,
        keep_causality, example_inputs, overrides, plan, verify,
    )  # fmt: skip
    check_flag("inplace", inplace)
    check_model(model)
    check_method(model, method)
    if example_inputs is not None:
        check_whole("model", nnx.state(model))
    is_verified = request.is_verified(abstract=is_abstract((nnx.state(model), example_inputs)))
    network = Network(model, example_inputs, method)
    is_given = plan is not None
    if plan is None:
        plan = plan_for(network, request)
        entries: Sequence[ECAEntry] = plan.entries
    else:
        entries = _replayed(plan, network)
    if request.keep_causality and plan.keep_causality:
        shown = evidence(network, entries) if is_given else plan.evidence
        check_causality("nnx", plan.model, entries, shown)
    stacks = [network.stack(network.at[entry.path]) or () for entry in entries]
    if not inplace:
        model = _copied(model)
    original = nnx.clone(model) if is_verified else None
    at = {name: place.module for place in places(model) for name in place.names}
    sites = [at[entry.path] for entry in entries]
    layers = [  # make all layers first, then change the network
        layer_for(site, entry, plan, stack) for site, entry, stack in zip(sites, entries, stacks, strict=True)
    ]
    with undone_on_error([undo_for(site) for site in sites]):
        for site, layer in zip(sites, layers, strict=True):
            wrap(site, layer)
        if original is not None:
            verify_run(model, changed(plan, entries=tuple(entries)), example_inputs, original, method)
        return model


def _replayed(plan: ECAPlan, network: Network) -> list[ECAEntry]:
    """Return the entries of a plan that are still to be carried out.

    An SE block is found by its path alone: without example inputs nothing tells what a module computes.
    """
    at_path = {name: candidate for candidate in find(network, "any") for name in candidate.names}
    entries = replay(plan, "nnx", at_path)
    # A plan from a checkpoint's keys may not know the channels.
    entries = [changed(entry, channels=entry.channels or at_path[entry.path].channels or 0) for entry in entries]
    return [sized(entry, network) for entry in entries]


def _copied(model: Model) -> Model:
    """Copy a model and its arrays: nnx.clone shares the arrays, and donating one model's would delete the other's."""
    copy: Model = nnx.clone(model)
    nnx.update(copy, jax.tree.map(copied, nnx.state(copy)))
    return copy
