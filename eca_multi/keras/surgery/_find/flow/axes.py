"""Rules for operations that move axes to other places, or mix what is along some axes and nothing along others."""

from typing import Any

from .flow import MIXED, Flow
from .step import Shape, Step


def over_axes(step: Step, flow: Flow) -> Flow:
    axes = step.option("axis")
    axes = [-1] if axes is None else [axes] if isinstance(axes, int) else axes
    return MIXED if flow.axis in [axis % step.rank for axis in axes] else flow


def reduced(step: Step, flow: Flow) -> Flow:
    axes = step.option("axis")
    axes = range(step.rank) if axes is None else [axes] if isinstance(axes, int) else axes
    taken = [axis % step.rank for axis in axes]
    if flow.axis in taken:
        return MIXED
    return flow if step.option("keepdims") else flow.at((flow.axis or 0) - sum(a < (flow.axis or 0) for a in taken))


def dense(step: Step, flow: Flow) -> Flow:
    return MIXED if flow.axis == step.rank - 1 else flow


def einsum_dense(step: Step, flow: Flow) -> Flow:
    inputs, output = step.operation.equation.replace(" ", "").split("->")
    x = inputs.split(",")[0]
    if "." in inputs:
        return MIXED if flow.axis == step.rank - 1 else flow
    letter = x[flow.axis or 0]
    return flow.at(output.index(letter)) if letter in output else MIXED


def reshaped(step: Step, flow: Flow) -> Flow:
    """The axis goes on where the output has an axis of the same size behind as many entries."""
    before, after, axis = step.inputs[0], step.outputs[0], flow.axis or 0
    for place in range(1, len(after)):
        is_same = before[axis] == after[place] and (before[axis] is not None or axis == place)
        if is_same and _size(before[1:axis]) == _size(after[1:place]) is not None:
            return flow.at(place)
    return MIXED


def _size(shape: Shape) -> int | None:
    size = 1
    for extent in shape:
        if extent is None:
            return None
        size *= extent
    return size


def permuted(step: Step, flow: Flow) -> Flow:
    dims = step.option("dims") or [axis for axis in step.option("axes") or reversed(range(step.rank))][1:]
    return flow.at([int(axis) % step.rank for axis in dims].index(flow.axis or 0) + 1)


def swapped(step: Step, flow: Flow) -> Flow:
    a, b = (step.option(name) % step.rank for name in ("axis1", "axis2"))
    return flow.at({a: b, b: a}.get(flow.axis or 0, flow.axis))


def expanded(step: Step, flow: Flow) -> Flow:
    axes = step.option("axis")
    rank = len(step.outputs[0])
    new = sorted(axis % rank for axis in ([axes] if isinstance(axes, int) else axes))
    axis = flow.axis or 0
    for place in new:
        axis += place <= axis
    return flow.at(axis)


def squeezed(step: Step, flow: Flow) -> Flow:
    axes = step.option("axis")
    if axes is None:
        axes = [axis for axis, extent in enumerate(step.inputs[0]) if extent == 1]
    taken = [axis % step.rank for axis in ([axes] if isinstance(axes, int) else axes)]
    return MIXED if flow.axis in taken else flow.at((flow.axis or 0) - sum(a < (flow.axis or 0) for a in taken))


def sliced(step: Step, flow: Flow) -> Flow:
    key = step.option("key", 1)
    key = list(key) if isinstance(key, tuple | list) else [key]
    if Ellipsis not in key:
        key.append(Ellipsis)
    missing = step.rank - sum(part is not Ellipsis and part is not None for part in key)
    place = key.index(Ellipsis)
    key[place : place + 1] = [slice(None)] * missing
    source = target = 0
    for part in key:
        if part is None:
            target += 1
            continue
        if source == flow.axis:
            return _part_taken(step, flow, part, target)
        source, target = source + 1, target + (not isinstance(part, int))
    return MIXED


def _part_taken(step: Step, flow: Flow, part: Any, place: int) -> Flow:
    length = step.inputs[0][flow.axis or 0]
    if not isinstance(part, slice) or (part.step or 1) < 1:
        return MIXED
    start = part.start or 0
    if start < 0:
        if length is None:
            return MIXED
        start += length
    is_chomp = not start and part.stop is not None and (part.stop < 0 or (length is not None and part.stop < length))
    sign = step.sign("takes the last positions off") if is_chomp else ""
    return flow.at(place).shifted(start, sign).windowed(0, part.step or 1, is_single=True)


def split(step: Step, flow: Flow) -> Flow:
    return MIXED if flow.axis == (step.option("axis") or 0) % step.rank else flow


def multiplied(step: Step, flow: Flow) -> Flow:
    return MIXED if flow.axis == step.rank - 1 or step.rank < 3 else flow


def repeated(step: Step, flow: Flow) -> Flow:
    return flow.at(2)
