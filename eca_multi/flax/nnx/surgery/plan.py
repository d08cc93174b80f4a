"""Say where ECA would be inserted in an nnx network."""

import math
from collections.abc import Sequence
from dataclasses import replace as changed
from functools import partial
from typing import Any

from flax import nnx

from eca_multi.flax._method import check_method
from eca_multi.flax._run import check_whole
from eca_multi.surgery.choose import choose
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import ChannelInferenceError
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.request import Overrides, Request, Where

from ._find.causality import evidence
from ._find.check import check_model
from ._find.kinds import find, offers
from ._find.network import Network
from ._find.places import base_parameters


def plan_eca(
    model: nnx.Module,
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
    """Say where ECA would be inserted; the model stays as it is. Print the plan for a dry run.

    Args:
        model: Any `nnx.Module`, in training or evaluation mode.
        where: "residual" (the branch right before each residual add, found by the data flow of one traced run),
            "block" (the end of every block of a class that has such an add), "conv_norm" (the norm after each
            convolution, or the convolution), "conv", "norm", "se" (replace SE blocks), a list of exact paths
            ("layer1.0.bn2", as `nnx.iter_graph` has them, joined by dots), or a callable (path, module) -> bool.
        include, exclude: A regular expression for the whole path, a list of paths or suffixes, or a callable.
        min_channels: Leave out sites with fewer channels.
        kernel_size, gamma, beta, gate: As in `ECA`.
        init: "identity" keeps the outputs bit-equal, "uniform" is the paper's; a function of the site's path alone.
        pool_axes, causal_axis: As in `ECA`; the axes count in (N, *S, C) for a site of the same rank. At a site with
            another channel axis the same spatial axes are meant.
        keep_causality: Find out whether the network sees no later positions, or one frame at a time, so that
            `insert_eca` refuses ECAs that would break that. False does not look, and inserts all the same.
        example_inputs: What the model is called with: an array, a tuple of positional inputs or a dict of keywords.
            Shapes count, zeros will do. Needed for "residual", "block" and "se": an nnx network has no graph before
            it runs. With them ranks, layouts and calls are known too.
        overrides: {pattern: {"kernel_size": k, "channel_axis": 1 or -1, "pool_axes": axes, "causal_axis": axis}}, or
            some of these.
        method: Name of the method that takes the inputs, for a network that is called by another one than `__call__`.

    Returns:
        The plan, with a reason for each candidate that is left out.

    Raises:
        NoSiteError: If no site is found, or a pattern matches nothing. UnsupportedModelError: If the model is being
            traced, cannot be traced, or comes without example inputs where they are needed. ChannelInferenceError: If
            the channels of a site are unknown. TypeError, ValueError: If an argument is invalid.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import plan_eca
        >>> class Block(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.conv = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        ...         self.bn = nnx.BatchNorm(8, rngs=rngs)
        ...     def __call__(self, x):
        ...         return nnx.relu(x + self.bn(self.conv(x)))
        >>> plan_eca(Block(nnx.Rngs(0)), example_inputs=jnp.zeros((1, 8, 8, 8))).paths
        ('bn',)

    Source: Wang et al., ECA-Net, CVPR 2020, for the place.
    """
    request = Request(
        "nnx", where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, pool_axes, causal_axis,
        keep_causality, example_inputs, overrides,
    )  # fmt: skip
    check_model(model)
    check_method(model, method)
    if example_inputs is not None:
        check_whole("model", nnx.state(model))
    return plan_for(Network(model, example_inputs, method), request)


def plan_for(network: Network, request: Request) -> ECAPlan:
    plan = choose(
        request,
        type(network.model).__name__,
        find(network, request.kind),
        model_parameters=base_parameters(network.model),
        notes=() if network.run else ("without example_inputs ranks, calls and unused modules are not known",),
        offers=partial(offers, network),
    )
    entries = tuple(sized(entry, network) for entry in plan.entries)
    shown = evidence(network, entries) if request.keep_causality else ()
    return changed(plan, entries=entries, evidence=shown)


def sized(entry: ECAEntry, network: Network) -> ECAEntry:
    """Return the entry with its number of parameters: a stacked block has a kernel for each of its layers.

    Raises:
        ChannelInferenceError: If the channels are unknown, for which an ECA of nnx is built.
    """
    if not entry.channels:
        raise ChannelInferenceError(
            f"The number of channels at {entry.path!r} ({entry.module_type}) must be known to build its ECA. "
            "Received: a module that does not say it. Pass example_inputs."
        )
    stack = network.stack(network.at[entry.path]) or ()
    return changed(entry, parameters=entry.kernel_size * math.prod(stack))
