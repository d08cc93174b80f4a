"""Insert ECA in a torch network."""

import copy
from collections.abc import Sequence
from dataclasses import replace as changed
from functools import partial
from typing import Any, TypeVar

from torch import nn

from eca_multi.surgery.causality import check_causality
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.replay import candidates_at, replay
from eca_multi.surgery.request import Overrides, Request, Where, check_flag
from eca_multi.torch._unchanged import unchanged_on_error

from ._find.causal import with_evidence
from ._find.check import check_inside, check_model, on_meta
from ._find.kinds import find
from ._find.network import Network
from ._find.observe import observe
from ._wrap.sites import forget_compiled, layer_for, wrap
from .plan import plan_for
from .verify import verify as verify_run

Model = TypeVar("Model", bound=nn.Module)


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
) -> Model:
    """Insert ECA; right after the insertion the model returns what it returned before, bit for bit.

    Each site stays the module that it was and gets a child `eca`, which a forward hook calls on the site's output:
    `layer1.0.bn2.weight` keeps its name, and `layer1.0.bn2.eca.conv.weight` is new. Checkpoints from before the
    insertion load with `strict=False`; only the kernels are missing. Make the optimizer afterwards, or add the kernels:
    `optimizer.add_param_group({"params": eca_parameters(model)})`.

    Args:
        model: As in `plan_eca`.
        where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, pool_axes, causal_axis,
            keep_causality, example_inputs, overrides: As in `plan_eca`.
        plan: Carry out this plan, of this model or of another model of the same architecture; then no other option of
            a choice may be given.
        inplace: Change the model itself; False changes a deep copy.
        verify: Run the model before and after and compare; None does so if there are example inputs.

    Returns:
        The model with ECA. A site that already has ECA stays as it is.

    Raises:
        PlanMismatchError: If the plan does not fit. CausalityError: If ECAs would carry later positions into earlier
            ones, or one frame into another. VerifyError: If outputs differ that were promised equal, or an ECA
            is not called as often as its base. Others as `plan_eca`. After an error the model is as it was.

    Example:
        >>> import torch
        >>> from eca_multi.torch import insert_eca
        >>> net = torch.nn.Sequential(torch.nn.Conv1d(3, 64, 3), torch.nn.ReLU())
        >>> x = torch.randn(2, 3, 20)
        >>> before = net(x)
        >>> net = insert_eca(net, "conv", example_inputs=x)
        >>> torch.equal(net(x), before)
        True

    Source: Wang et al., ECA-Net, CVPR 2020.
    """
    request = Request(
        "torch", where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, pool_axes, causal_axis,
        keep_causality, example_inputs, overrides, plan, verify,
    )  # fmt: skip
    check_flag("inplace", inplace)
    check_model(model)
    check_inside(model, example_inputs)
    with unchanged_on_error(model, is_run=example_inputs is not None):
        network = Network(model, example_inputs)
        if plan is None:
            plan = plan_for(network, request)
            entries: Sequence[ECAEntry] = plan.entries
        else:
            entries = replay(plan, "torch", candidates_at(plan, partial(find, network)))
            if plan.keep_causality and request.keep_causality:
                plan = with_evidence(network, plan, entries)
        if plan.keep_causality and request.keep_causality:
            check_causality("torch", plan.model, entries, plan.evidence)
        if not inplace:
            model = copy.deepcopy(model)
        is_verified = request.is_verified(abstract=on_meta(example_inputs))
        before = observe(model, example_inputs, {}).outputs if is_verified else None
        layers = [layer_for(model, entry, plan) for entry in entries]  # make all layers first, then change the network
        for entry, layer in zip(entries, layers, strict=True):
            wrap(model, entry, layer)
        forget_compiled()
        if before is not None:
            verify_run(model, changed(plan, entries=tuple(entries)), example_inputs, before)
        return model
