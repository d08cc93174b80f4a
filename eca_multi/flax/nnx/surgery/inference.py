"""The plan that a checkpoint tells."""

from typing import Any

from flax import nnx

from eca_multi import __version__
from eca_multi._errors import GATES
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import NoSiteError, PlanMismatchError
from eca_multi.surgery.plan import ECAPlan

from ._candidates import Finder
from ._gated import NAME, base_class
from ._installed import base_parameters
from ._modules import check_model
from .states import Key, flat


def infer_plan(model: nnx.Module, state: Any, *, gate: str = "2sigmoid") -> ECAPlan:
    """Return the plan that a checkpoint's keys tell: its sites and kernel sizes.

    Args:
        model: Plain, of the checkpoint's architecture; it is not changed.
        state: The checkpoint: a pure dict (`nnx.to_pure_dict`) or an `nnx.State`; list indices may be text.
        gate: The gate, which is in no checkpoint.

    Returns:
        A plan for `insert_eca(model, plan=...)`. Where a site does not tell its channels they are 0, and that call
        needs example inputs.

    Raises:
        NoSiteError: If the checkpoint has no kernel of an ECA. PlanMismatchError: If the model has no such sites.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import infer_plan, insert_eca
        >>> net = insert_eca(nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0))), "conv")
        >>> fresh = nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0)))
        >>> infer_plan(fresh, nnx.to_pure_dict(nnx.state(net))).paths
        ('layers.0',)

    Source: eca_multi.
    """
    check_model(model)
    if gate not in GATES:
        raise ValueError(
            f"gate must be {' or '.join(map(repr, GATES))}. Received: gate={gate!r}. No checkpoint says it, so take "
            "the one that the network was made with."
        )
    kernels = _kernels(flat(state), flat(nnx.state(model)))
    if not kernels:
        raise NoSiteError(
            f"state must have kernels of inserted ECAs ('<site>.{NAME}.kernel'). Received: none of them, or only such "
            "as the model has already. Pass the whole state of a network with ECA, and the plain network."
        )
    finder = Finder(model, None)
    missing = [path for path in kernels if path not in finder.at]
    if missing:
        raise PlanMismatchError(
            f"state must be of the model's architecture. Received: {len(missing)} differences: "
            f"{'; '.join(f'{path}: is not there' for path in missing)}. Build the network that it was saved from."
        )
    entries = [_entry(finder, path, action, shape, gate) for path, (action, shape) in kernels.items()]
    order = [place.path for place in finder.places]
    entries.sort(key=lambda entry: order.index(entry.path) if entry.path in order else len(order))
    return ECAPlan(
        "nnx",
        base_class(model).__name__,
        where="paths",
        gate=gate,
        init="identity" if gate == "2sigmoid" else "uniform",
        entries=tuple(entries),
        model_parameters=base_parameters(model),
        package=__version__,
    )


def _kernels(state: dict[Key, Any], plain: dict[Key, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Action and shape by the site's path: kernels that the state has and the plain model has not."""
    found = {}
    for key, value in state.items():
        shape = tuple(getattr(value, "shape", ()))
        if key in plain or key[-1:] != ("kernel",) or len(shape) < 3 or shape[-2:] != (1, 1):
            continue
        if key[-2:-1] == (NAME,):
            found[".".join(key[:-2])] = ("after", shape)
        elif any(other[: len(key) - 1] == key[:-1] for other in plain):  # a module of which nothing else is left
            found[".".join(key[:-1])] = ("replace", shape)
    return found


def _entry(finder: Finder, path: str, action: str, shape: tuple[int, ...], gate: str) -> ECAEntry:
    place = finder.at[path]
    channels, layout = finder.channels(place)
    parameters = 1
    for n in shape:
        parameters *= n
    return ECAEntry(
        place.path,
        action=action,
        module_type=base_class(place.module).__name__,
        tensor=f"{place.path}: {'input of the SE block' if action == 'replace' else 'output'}",
        channels=channels or 0,
        layout=layout or "channels_last",
        kernel_size=shape[-3],
        parameters=parameters,
        aliases=place.aliases,
        keeps_output=action != "replace" and gate == "2sigmoid",
    )
