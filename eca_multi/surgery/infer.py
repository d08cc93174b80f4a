"""The plan that kernels tell: those in a checkpoint, or those in a live network."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from eca_multi import __version__
from eca_multi._pooling import check_pooling_types

from .axes import Axes, axes_at, check_axes
from .candidate import Candidate
from .errors import NoSiteError, PlanMismatchError
from .plan import ECAPlan
from .request import check_plan_gate

NO_AXES = Axes()


@dataclass(frozen=True)
class Kernel:
    """The kernel of one ECA: its size k, its number of parameters, and what a plan notes about the kernel."""

    size: int
    parameters: int
    notes: tuple[str, ...] = ()


def check_checkpoint(state: Any, gate: str) -> None:
    check_plan_gate(gate)
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state must be a mapping of names to arrays. Received: {type(state).__name__}. "
            "Pass the state of a network with ECA."
        )


def inferred_plan(
    framework: str,
    model: str,
    kernels: Mapping[str, Kernel],
    at_path: Mapping[str, Candidate],
    *,
    gate: str,
    key: str,
    model_parameters: int,
    axes: Axes = NO_AXES,
) -> ECAPlan:
    """Return the plan for the sites of the kernels.

    Args:
        framework, model, gate, model_parameters: For the plan.
        kernels: By the site's path: those of the checkpoint that the plain network lacks.
        at_path: What the plain network has at those paths, in the network's order.
        key: How a checkpoint names a kernel, for the message: "<site>.eca.kernel".
        axes: What the ECAs average over, which no checkpoint tells; they count in the framework's default layout.

    Raises:
        NoSiteError: If there are no kernels. PlanMismatchError: If the network lacks a site.
    """
    if not kernels:
        raise NoSiteError(
            f"state must have kernels of inserted ECAs ({key!r}). Received: none of them, or only such as the network "
            "has already. Pass the whole state of a network with ECA, and the plain network."
        )
    missing = [f"{path}: is not there" for path in kernels if path not in at_path]
    if missing:
        raise PlanMismatchError(
            f"state must be of the network's architecture. Received: {len(missing)} differences: "
            f"{'; '.join(missing)}. Build the network that the state was saved from."
        )
    # A module with two names has its kernel under both in a state, and stands in the plan once.
    by_site = {candidate.path: (candidate, kernels[path]) for path, candidate in at_path.items() if path in kernels}
    sites = [(_with_axes(framework, candidate, axes), kernel) for candidate, kernel in by_site.values()]
    notes = ("read from the keys of a state; the gate and the axes are not in them",)
    return plan_of(framework, model, sites, gate=gate, model_parameters=model_parameters, notes=notes)


def _with_axes(framework: str, site: Candidate, axes: Axes) -> Candidate:
    return replace(site, **axes_at(framework, axes, site.path, site.layout, site.shape)._asdict())


def asked_axes(framework: str, pool_axes: Any, causal_axis: Any) -> Axes:
    """Return the axes that the caller of `infer_plan` names, checked."""
    axes = Axes(*check_pooling_types(pool_axes, causal_axis))
    check_axes(framework, axes)
    return axes


def plan_of(
    framework: str,
    model: str,
    sites: Iterable[tuple[Candidate, Kernel]],
    *,
    gate: str,
    model_parameters: int,
    where: str = "paths",
    notes: tuple[str, ...] = (),
) -> ECAPlan:
    """Return the plan that inserts ECAs at these sites, with these kernels."""
    is_identity = gate == "2sigmoid"
    entries = [
        candidate.entry(
            kernel_size=kernel.size,
            parameters=kernel.parameters,
            keeps_output=candidate.keeps_output and is_identity,
            notes=(*candidate.notes, *kernel.notes, *filter(None, (candidate.axis_reason,))),
        )
        for candidate, kernel in sites
    ]
    return ECAPlan(
        framework,
        model,
        where=where,
        gate=gate,
        init="identity" if is_identity else "uniform",
        entries=tuple(entries),
        model_parameters=model_parameters,
        notes=notes,
        package=__version__,
    )
