"""Read a plan back: from a checkpoint of an nnx network, or from a live network with ECA."""

import math
from collections.abc import Sequence
from typing import Any

from flax import nnx

from eca_multi.flax._method import check_method
from eca_multi.surgery.infer import Kernel, asked_axes, check_checkpoint, inferred_plan, plan_of
from eca_multi.surgery.plan import ECAPlan

from ._find.check import check_model
from ._find.network import Network
from ._find.places import base_parameters, installed
from ._wrap import NAME, base_class
from .states import Key, flat


def infer_plan(
    model: nnx.Module,
    state: Any,
    *,
    gate: str = "2sigmoid",
    pool_axes: int | Sequence[int] | None = None,
    causal_axis: int | None = None,
    example_inputs: Any = None,
    method: str = "__call__",
) -> ECAPlan:
    """Return the plan that a checkpoint's keys tell: its sites and kernel sizes.

    Args:
        model: Plain, of the checkpoint's architecture; it is not changed.
        state: The checkpoint: a pure dict (`nnx.to_pure_dict`) or an `nnx.State`; list indices may be text.
        gate: The gate, which is in no checkpoint; with "2sigmoid" the plan's `init` is "identity".
        pool_axes, causal_axis: As in `plan_eca`; they are in no checkpoint either.
        example_inputs, method: As in `plan_eca`, for sites whose channels or their axis only a run tells.

    Returns:
        A plan for `insert_eca(model, plan=...)`, equal to the plan that the checkpoint's network was made by. Where
        nothing tells a site's channels they are 0, and that call needs example inputs.

    Raises:
        NoSiteError: If the checkpoint has no kernel of an ECA. PlanMismatchError: If the model has no such sites.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import infer_plan, insert_eca
        >>> net = insert_eca(nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0))), "conv")
        >>> fresh = nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0)))
        >>> infer_plan(fresh, nnx.to_pure_dict(nnx.state(net))).paths
        ('layers.0',)
    """
    check_model(model)
    check_method(model, method)
    check_checkpoint(state, gate)
    behind, in_place = _kernels(flat(state), flat(nnx.state(model)))
    network = Network(model, example_inputs, method)
    at_path = {}
    for place in network.places:
        for path in place.names:
            if path in in_place:
                text = f"{place.path}: input of the SE block"
                at_path[path] = network.candidate(place, action="replace", tensor=text, keeps_output=False)
            elif path in behind:
                at_path[path] = network.candidate(place)
    return inferred_plan(
        "nnx",
        base_class(model).__name__,
        in_place | behind,
        at_path,
        gate=gate,
        key=f"<site>.{NAME}.kernel",
        model_parameters=base_parameters(model),
        axes=asked_axes("nnx", pool_axes, causal_axis),
    )


def _kernels(state: dict[Key, Any], plain: dict[Key, Any]) -> tuple[dict[str, Kernel], dict[str, Kernel]]:
    """The kernels by site, of ECAs behind a site and of ECAs in its place: those that the plain model lacks."""
    behind: dict[str, Kernel] = {}
    in_place: dict[str, Kernel] = {}
    for key, value in state.items():
        shape = tuple(getattr(value, "shape", ()))
        if key in plain or key[-1:] != ("kernel",) or len(shape) < 3 or shape[-2:] != (1, 1):
            continue
        kernel = Kernel(shape[-3], math.prod(shape))
        if key[-2:-1] == (NAME,):
            behind[".".join(key[:-2])] = kernel
        elif any(other[: len(key) - 1] == key[:-1] for other in plain):  # a module of which nothing else is left
            in_place[".".join(key[:-1])] = kernel
    return behind, in_place


def installed_eca(model: nnx.Module) -> ECAPlan:
    """Return the inserted ECAs as a plan, read from the network itself: after a copy or a reload too.

    Args:
        model: With or without ECA.

    Returns:
        A plan that `insert_eca` carries out on a plain network; without entries where there is no ECA. What a network
        does not say (the reason of a choice, calls, gamma and beta) is left at its default.

    Raises:
        TypeError: If it is no nnx module. UnsupportedModelError: If it is being traced.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import insert_eca, installed_eca
        >>> net = insert_eca(nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0))), "conv")
        >>> installed_eca(net).entries[0].kernel_size
        3
    """
    check_model(model)
    ecas = installed(model)
    gates = sorted({str(layer.gate) for _, layer in ecas})
    return plan_of(
        "nnx",
        base_class(model).__name__,
        [(site, Kernel(layer.kernel_size, math.prod(layer.kernel.shape))) for site, layer in ecas],
        gate=gates[0] if gates else "2sigmoid",
        model_parameters=base_parameters(model),
        notes=(f"the gates differ: {', '.join(gates)}",) if len(gates) > 1 else (),
    )
