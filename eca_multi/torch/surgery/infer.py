"""Read a plan back: from a checkpoint of a torch network, or from a live network with ECA."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from eca_multi.surgery.infer import Kernel, asked_axes, check_checkpoint, inferred_plan, plan_of
from eca_multi.surgery.plan import ECAPlan

from ._find.check import check_inside, check_model
from ._find.kinds import find
from ._find.network import Network
from ._find.places import base_parameters, installed
from ._wrap.old_names import BEHIND, plain_path

IN_PLACE = ".conv.weight"


def infer_plan(
    model: nn.Module,
    state: Mapping[str, Any],
    *,
    gate: str = "2sigmoid",
    pool_axes: int | Sequence[int] | None = None,
    causal_axis: int | None = None,
    example_inputs: Any = None,
) -> ECAPlan:
    """Return the plan that a checkpoint's keys tell: its sites and kernel sizes.

    Args:
        model: Plain, of the checkpoint's architecture; it is not changed.
        state: The checkpoint's state dict.
        gate: The gate, which is in no checkpoint; with "2sigmoid" the plan's `init` is "identity".
        pool_axes, causal_axis: As in `plan_eca`; they are in no checkpoint either.
        example_inputs: As in `plan_eca`, for sites whose channels or their axis only a run tells.

    Returns:
        A plan for `insert_eca(model, plan=...)`, equal to the plan that the checkpoint's network was made by.

    Raises:
        NoSiteError: If the checkpoint has no kernel of an ECA. PlanMismatchError: If the model has no such sites.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import infer_plan, insert_eca
        >>> net = insert_eca(nn.Sequential(nn.Conv2d(3, 64, 3)), "conv")
        >>> infer_plan(nn.Sequential(nn.Conv2d(3, 64, 3)), net.state_dict()).paths
        ('0',)
    """
    check_model(model)
    check_inside(model, example_inputs)
    check_checkpoint(state, gate)
    behind, in_place = _kernels(state, model)
    network = Network(model, example_inputs)
    places = {
        path: candidate
        for kinds, kernels in ((("se", "slot"), in_place), (("any",), behind))
        for kind in kinds
        for candidate in find(network, kind)
        for path in candidate.names
        if path in kernels
    }
    paths = sorted(places, key=network.order)
    return inferred_plan(
        "torch",
        type(model).__name__,
        in_place | behind,
        {path: places[path] for path in paths},
        gate=gate,
        key=f"<site>{BEHIND}",
        model_parameters=base_parameters(model),
        axes=asked_axes("torch", pool_axes, causal_axis),
    )


def _kernels(state: Mapping[str, Any], model: nn.Module) -> tuple[dict[str, Kernel], dict[str, Kernel]]:
    """The kernels by site, of ECAs behind a site and of ECAs in its place: those that the plain model lacks."""
    plain = model.state_dict()
    behind: dict[str, Kernel] = {}
    in_place: dict[str, Kernel] = {}
    for key, value in state.items():
        shape = tuple(getattr(value, "shape", ()))
        if key in plain or len(shape) != 3 or shape[:2] != (1, 1):
            continue
        kernel = Kernel(shape[-1], shape[-1])
        if key.endswith(BEHIND):
            behind[plain_path(key.removesuffix(BEHIND), state)] = kernel
        elif key.endswith(IN_PLACE):
            in_place[key.removesuffix(IN_PLACE)] = kernel
    return behind, in_place


def installed_eca(model: nn.Module) -> ECAPlan:
    """Return the plan of the ECAs in a live network; it holds for copies and reloaded ones too.

    Args:
        model: A network with ECA.

    Returns:
        The plan; without entries where there is none. Its `init` is "identity" where the gate is 2*sigmoid.

    Raises:
        TypeError, UnsupportedModelError: As `plan_eca`. ValueError: If two gates are in one network.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import insert_eca, installed_eca
        >>> installed_eca(insert_eca(nn.Sequential(nn.Conv2d(3, 8, 3)), "conv")).paths
        ('0',)
    """
    check_model(model)
    ecas = installed(model)
    gates = {str(layer.gate) for _, layer in ecas}
    if len(gates) > 1:
        raise ValueError(
            f"The ECAs of a network must have one gate for one plan. Received: {', '.join(sorted(gates))}. "
            "Read them one by one: module.eca.gate."
        )
    return plan_of(
        "torch",
        type(model).__name__,
        [(site, Kernel(layer.kernel_size, layer.conv.weight.numel())) for site, layer in ecas],
        gate=next(iter(gates), "2sigmoid"),
        model_parameters=base_parameters(model),
        where="installed",
    )
