"""Say where ECA would be inserted in a torch network."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from eca_multi.surgery.choose import choose
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.request import Overrides, Request, Where
from eca_multi.torch._unchanged import unchanged_on_error

from ._find.causal import with_evidence
from ._find.check import check_inside, check_model
from ._find.kinds import find, offers
from ._find.network import Network
from ._find.places import base_parameters

UNTRACED = "adds may hide in {}{}, which torch.fx cannot trace: example_inputs show them"


def plan_eca(
    model: nn.Module,
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
) -> ECAPlan:
    """Say where ECA would be inserted; the model stays as it is. Print the plan for a dry run.

    Args:
        model: Any `torch.nn.Module` made of modules.
        where: "residual" (the branch right before each residual add, found by the data flow of each block), "block"
            (the end of every block of a class that has such an add), "conv_norm" (the norm behind each convolution, or
            the convolution), "conv", "norm", "se" (replace SE blocks), "slot" (the empty attention slots of timm's
            networks), a list of exact paths ("layer1.0.bn2"), or a callable (path, module) -> bool.
        include, exclude: A regular expression for the whole path, a list of paths or suffixes, or a callable.
        min_channels: Leave out sites with fewer channels.
        kernel_size, gamma, beta, gate: As in `ECA`.
        init: "identity" keeps the outputs bit-equal, "uniform" is the paper's.
        pool_axes, causal_axis: As in `ECA`; the axes count in (N, C, *S) for a site of the same rank. At a site with
            another channel axis the same spatial axes are meant.
        keep_causality: Find out whether the network sees no later positions, or one frame at a time, so that
            `insert_eca` refuses ECAs that would break that. False does not look, and inserts all the same.
        example_inputs: What the model is called with: a tensor, a tuple of positional inputs or a dict of keywords.
            One run in evaluation mode then tells shapes, layouts and calls, also where torch.fx cannot trace.
        overrides: {pattern: {"kernel_size": k, "channel_axis": 1 or -1, "pool_axes": axes, "causal_axis": axis}}, or
            some of these.

    Returns:
        The plan, with a reason for each candidate that is left out.

    Raises:
        NoSiteError: If no site is found, or a pattern matches nothing. UnsupportedModelError: If the model is wrapped,
            compiled, being traced, or cannot be traced. ChannelInferenceError: If the channels of a site are unknown.
            TypeError, ValueError: If an argument is invalid.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import plan_eca
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        ...     def forward(self, x):
        ...         return (x + self.bn(self.conv(x))).relu()
        >>> plan_eca(nn.Sequential(Block(), Block())).paths
        ('0.bn', '1.bn')

    Source: Wang et al., ECA-Net, CVPR 2020, for the place.
    """
    request = Request(
        "torch", where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, pool_axes, causal_axis,
        keep_causality, example_inputs, overrides,
    )  # fmt: skip
    check_model(model)
    check_inside(model, example_inputs)
    with unchanged_on_error(model, is_run=example_inputs is not None):
        return plan_for(Network(model, example_inputs), request)


def plan_for(network: Network, request: Request) -> ECAPlan:
    plan = choose(
        request,
        type(network.model).__name__,
        find(network, request.kind),
        model_parameters=base_parameters(network.model),
        notes=_notes(network, request),
        offers=partial(offers, network),
    )
    return with_evidence(network, plan, plan.entries) if request.keep_causality else plan


def _notes(network: Network, request: Request) -> tuple[str, ...]:
    unknown = list(network.unknown()) if request.kind in ("residual", "block") else []
    if not unknown:
        return ()
    more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
    return (UNTRACED.format(", ".join(path or "the network" for path in unknown[:3]), more),)
