"""The plan that a checkpoint tells."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from eca_multi import __version__
from eca_multi._errors import GATES
from eca_multi.surgery.candidate import Candidate
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import NoSiteError, PlanMismatchError
from eca_multi.surgery.plan import ECAPlan

from ._candidates import Finder
from ._modules import check_model
from .insertion import base_parameters

BEHIND, IN_PLACE = ".eca.conv.weight", ".conv.weight"


def infer_plan(model: nn.Module, state: Mapping[str, Any], *, gate: str = "2sigmoid") -> ECAPlan:
    """Return the plan that a checkpoint's keys tell: its sites and kernel sizes.

    Args:
        model: Plain, of the checkpoint's architecture; it is not changed.
        state: The checkpoint's state dict.
        gate: The gate, which is in no checkpoint.

    Returns:
        A plan for `insert_eca(model, plan=...)`.

    Raises:
        NoSiteError: If the checkpoint has no kernel of an ECA. PlanMismatchError: If the model has no such sites.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import infer_plan, insert_eca
        >>> net = insert_eca(nn.Sequential(nn.Conv2d(3, 64, 3)), "conv")
        >>> infer_plan(nn.Sequential(nn.Conv2d(3, 64, 3)), net.state_dict()).paths
        ('0',)

    Source: eca_multi.
    """
    check_model(model)
    if gate not in GATES:
        raise ValueError(
            f"gate must be {' or '.join(map(repr, GATES))}. Received: gate={gate!r}. No checkpoint says it, so take "
            "the one that the network was made with."
        )
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a state dict. Received: {type(state).__name__}. Pass model.state_dict().")
    kernels = _kernels(state, model)
    if not kernels:
        raise NoSiteError(
            "state must have kernels of inserted ECAs ('<site>.eca.conv.weight'). Received: none of them, or only such "
            "as the model has already. Pass the whole state dict of a network with ECA, and the plain network."
        )
    finder = Finder(model)
    places = {kind: _by_name(finder.find(kind)) for kind in ("any", "se", "slot")}
    entries, missing = [], []
    for path, (behind, shape) in kernels.items():
        found = next(
            (places[kind][path] for kind in (("any",) if behind else ("se", "slot")) if path in places[kind]), None
        )
        if found is None:
            missing.append(f"{path}: is not there")
        else:
            entries.append(_entry(found, shape, gate))
    if missing:
        raise PlanMismatchError(
            f"state must be of the model's architecture. Received: {len(missing)} differences: {'; '.join(missing)}. "
            "Build the network that it was saved from."
        )
    order = list(finder.at)
    entries.sort(key=lambda entry: order.index(entry.path) if entry.path in order else len(order))
    return ECAPlan(
        "torch",
        type(model).__name__,
        where="paths",
        gate=gate,
        init="identity" if gate == "2sigmoid" else "uniform",
        entries=tuple(entries),
        model_parameters=base_parameters(model),
        package=__version__,
    )


def _kernels(state: Mapping[str, Any], model: nn.Module) -> dict[str, tuple[bool, tuple[int, ...]]]:
    """Whether ECA stands behind the site, and its kernel's shape, by path: what the plain model has not."""
    plain = model.state_dict()
    found: dict[str, tuple[bool, tuple[int, ...]]] = {}
    for key, value in state.items():
        shape = tuple(getattr(value, "shape", ()))
        if key in plain or len(shape) != 3 or shape[:2] != (1, 1):
            continue
        if key.endswith(BEHIND):
            found[_plain_path(key.removesuffix(BEHIND), state)] = (True, shape)
        elif key.endswith(IN_PLACE):
            found[key.removesuffix(IN_PLACE)] = (False, shape)
    return found


def _plain_path(path: str, state: Mapping[str, Any]) -> str:
    """The name of a site without ECA around the modules above it."""
    parts = path.split(".")
    kept = []
    for i, part in enumerate(parts):
        if not (part == "base" and f"{'.'.join(parts[:i])}{BEHIND}" in state):
            kept.append(part)
    return ".".join(kept)


def _by_name(candidates: list[Candidate]) -> dict[str, Candidate]:
    return {name: candidate for candidate in candidates for name in candidate.names}


def _entry(found: Candidate, shape: tuple[int, ...], gate: str) -> ECAEntry:
    return ECAEntry(
        found.path,
        action=found.action,
        module_type=found.module_type,
        tensor=found.tensor,
        channels=found.channels or 0,
        layout=found.layout,
        kernel_size=shape[-1],
        parameters=shape[-1],
        aliases=found.aliases,
        keeps_output=found.keeps_output and gate == "2sigmoid",
    )
