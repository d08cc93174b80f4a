"""What a run proves of a network's order: the axes along which nothing looks ahead, and where its modules see them."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

from eca_multi.surgery.axes import place_of
from eca_multi.surgery.causality import Evidence, grouped
from eca_multi.surgery.entry import ECAEntry

from .flow import Flow
from .positions import Positions, Shape, positions

PROVED = {
    "causal": "the data flow of a run proves that no output depends on later positions of the input's axis {}",
    "frames": "the data flow of a run proves that no output depends on other positions of the input's axis {}",
}


def proofs(flow: Flow, settled: Collection[str] = ()) -> list[Positions]:
    """Return the axes of a network's input, behind the batch, along which the network is proved causal.

    Args:
        flow: Of a run with tags on all modules.
        settled: As for `positions`.

    Returns:
        One record for each axis; `is_each` holds where positions stay apart, too. An axis that no output has is left
        out: a classifier has one answer for all positions, and keeps no order.
    """
    arguments = flow.jaxpr.jaxpr.invars
    inputs = range(len(arguments)) if flow.inputs is None else flow.inputs
    leading = max((tuple(arguments[i].aval.shape) for i in inputs), key=len, default=())
    ends = [tuple(getattr(v.aval, "shape", ())) for v in flow.jaxpr.jaxpr.outvars[: flow.results]]
    sizes = {size for end in ends for size in end[1:]} - {1}
    axes = [axis for axis in range(1, len(leading)) if leading[axis] in sizes]
    found = [positions(flow.jaxpr, inputs, axis, settled, flow.results) for axis in axes]
    return [one for one in found if one.is_causal]


def position_axis(found: Positions, path: str, shape: Shape) -> int | None:
    """Return the axis of a module's output that holds the positions; None where none does.

    Frames in the batch, under a vmap or one by one in a scan are none of a module's axes: what the module sees of them
    is one frame, or many images.

    Args:
        shape: Of the output in the module itself, without the axes of a vmap around the module.
    """
    for state, whole in found.modules.get(path, ()):
        if state is None or state.axis < 0:
            continue
        axis = _without_vmap(state.axis, whole, shape)
        if axis is not None and axis > 0:
            return axis
    return None


def _without_vmap(axis: int, whole: Shape, shape: Shape) -> int | None:
    """Return an axis of `whole` as one of `shape`, which lacks some of the axes; None where it lacks that one."""
    ways = [
        gone
        for gone in combinations(range(len(whole)), max(len(whole) - len(shape), 0))
        if tuple(size for i, size in enumerate(whole) if i not in gone) == shape
    ]
    if not ways or any(axis in gone for gone in ways):
        return None
    return axis - sum(i < axis for i in ways[0])


def evidence(
    flow: Flow, entries: Sequence[ECAEntry], shapes: Mapping[str, Shape], settled: Collection[str] = ()
) -> tuple[Evidence, ...]:
    """Return what a run proves of the places where ECAs are to stand.

    Args:
        flow, settled: As for `proofs`.
        entries: The ECAs.
        shapes: By path, of the site's output in the site's own module; a site without one is left out.
    """
    shown: list[Evidence] = []
    for found in proofs(flow, settled):
        how = "frames" if found.is_each else "causal"
        sites = []
        for entry in entries:
            shape = shapes.get(entry.path, ())
            axis = position_axis(found, entry.path, shape)
            if axis is not None and axis != entry.channel_axis % len(shape):
                sites.append((entry.path, how, place_of(axis, entry.layout, len(shape)), len(shape)))
        shown += grouped(sites, PROVED[how].format(found.axis))
    return tuple(shown)
