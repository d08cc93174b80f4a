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
    inputs = _inputs(flow)
    found = [positions(flow.jaxpr, inputs, axis, settled, flow.results) for axis in shared_axes(flow)]
    return [one for one in found if one.is_causal]


def shared_axes(flow: Flow) -> list[int]:
    """Return the axes of the leading input that are as long as some axis of an output, both behind the batch."""
    shapes = [tuple(flow.jaxpr.jaxpr.invars[i].aval.shape) for i in _inputs(flow)]
    ends = [tuple(getattr(v.aval, "shape", ())) for v in flow.jaxpr.jaxpr.outvars[: flow.results]]
    sizes = {size for end in ends for size in end[1:]} - {1}
    leading: Shape = max(shapes, key=len, default=())
    return [axis for axis in range(1, len(leading)) if leading[axis] in sizes]


def _inputs(flow: Flow) -> Sequence[int]:
    return range(len(flow.jaxpr.jaxpr.invars)) if flow.inputs is None else flow.inputs


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


def _means_no_order(at: Mapping[int, Positions], rank: int) -> bool:
    """Whether every axis of a map keeps its positions apart, or both axes of an image look back."""
    return len(at) == rank - 2 and (rank == 4 or all(one.is_each for one in at.values()))


def evidence_of(
    proved: Sequence[Positions], entries: Sequence[ECAEntry], shapes: Mapping[str, Shape]
) -> tuple[Evidence, ...]:
    """Return what these proofs say of the places where ECAs are to stand.

    A site that is apart at each of its positions is left out: a network that works point by point has no frames. So is
    an image that is causal along height and width: an even kernel looks back along both, and means no order by it.

    Args:
        entries: The ECAs.
        shapes: By path, of the site's output in the site's own module; a site without one is left out.
    """
    places: dict[str, dict[int, Positions]] = {}
    for found in proved:
        for entry in entries:
            shape = shapes.get(entry.path, ())
            axis = position_axis(found, entry.path, shape)
            if axis is not None and axis != entry.channel_axis % len(shape):
                places.setdefault(entry.path, {})[place_of(axis, entry.layout, len(shape))] = found
    shown: list[Evidence] = []
    for found in proved:
        how = "frames" if found.is_each else "causal"
        sites = [
            (path, how, place, len(shapes[path]))
            for path, at in places.items()
            for place, one in at.items()
            if one is found and not _means_no_order(at, len(shapes[path]))
        ]
        shown += grouped(sites, PROVED[how].format(found.axis))
    return tuple(shown)
