"""One module of a network described as a site: whether an ECA can stand behind the module, and along which axis."""

from collections.abc import Sequence

from eca_multi.surgery.candidate import HAS_ECA, Candidate, Place
from eca_multi.torch.layers import ECA
from eca_multi.torch.surgery._wrap.gate import gate_of, merging, why_no_gate
from eca_multi.torch.surgery._wrap.sites import parent_of

from .axis import Axis, axis_in_run, axis_without_run
from .classes import is_container
from .network import Network
from .places import join
from .residual import Source, last_of
from .start import notes_at_start


def site_at(
    network: Network,
    place: Place,
    tensor: str = "",
    source: Source | None = None,
    *,
    action: str = "after",
    notes: Sequence[str] = (),
) -> Candidate:
    """Describe a module as a site; `source` is the end of the branch that the module closes."""
    reason = _reason(network, place)
    axis = _axis(network, place, source) if not reason else Axis(*network.channels.of(place))
    return Candidate(
        path=place.path,
        module=place.module,
        action=action,
        module_type=type(place.module).__name__,
        tensor=tensor or f"the output of {place.path}",
        channels=axis.channels,
        layout=axis.layout,
        aliases=place.aliases,
        calls=network.calls(place),
        notes=(*(source.notes if source else ()), *notes_at_start(place.module), *notes),
        reason=reason or axis.reason,
        axis_reason=axis.axis_reason,
        shape=network.shape(place) or (),
    )


def _reason(network: Network, place: Place) -> str:
    """Why a module cannot be a site; "" if it can."""
    if gate_of(place.module) is not None or isinstance(place.module, ECA):
        return HAS_ECA
    if is_container(place.module):
        inner = last_of(place.module)[0]
        return f"a container; name its last module, {join(place.path, inner)}" if inner else "a container"
    if network.run and not network.calls(place):
        return "never called on example_inputs"
    if network.run and network.shape(place) is None:
        return "its output is no single tensor of real numbers"
    if any(tensor.is_complex() for tensor in place.module.parameters(recurse=False)):
        return "it computes with complex numbers"
    return why_no_gate(place.module) or _merged(network, place.path)


def _merged(network: Network, path: str) -> str:
    """Why a module inside of one that merges its branches cannot be a site."""
    above = parent_of(path)[0]
    while above:
        inside = path.removeprefix(f"{above}.")
        if above in network.at and (method := merging(network.at[above].module, inside)):
            kind = type(network.at[above].module).__name__
            return f"inside of {above}, a {kind}, whose {method} merges its layers: name {above} itself"
        above = parent_of(above)[0]
    return ""


def _axis(network: Network, place: Place, source: Source | None) -> Axis:
    base, said, shape = place.module, network.channels.of(place), network.shape(place)
    if shape is None:
        is_turned = source is not None and source.layout != ""
        return axis_without_run(place.path, base, said, is_turned)
    axis = axis_in_run(place.path, base, said, shape, None)
    if axis.axis_reason and axis.axis is None and network.larger_run is not None:
        axis = axis_in_run(place.path, base, said, shape, network.larger_run.shapes.get(place.path))
    return axis
