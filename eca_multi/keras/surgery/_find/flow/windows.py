"""Rules for operations that look at positions around one: convolutions, pooling, padding, RNNs, ECA."""

from eca_multi._pooling import check_pooling

from .flow import MIXED, Flow
from .step import Step, spatial_index


def convolved(step: Step, flow: Flow) -> Flow:
    index = spatial_index(step, flow.axis or 0)
    if index is None:
        return MIXED
    layer = step.operation
    size, stride, padding = layer.kernel_size[index], layer.strides[index], layer.padding
    reach, sign = (size - 1) * layer.dilation_rate[index], ""
    if padding == "causal":
        reach, sign = 0, step.sign("has padding='causal'")
    elif size == 1 and max(layer.kernel_size) > 1:
        sign = step.sign(f"has a kernel of {tuple(layer.kernel_size)}")
    return flow.windowed(reach, stride, is_single=size == 1, sign=sign)


def transposed(step: Step, flow: Flow) -> Flow:
    index = spatial_index(step, flow.axis or 0)
    if index is None:
        return MIXED
    layer = step.operation
    size, stride = layer.kernel_size[index], layer.strides[index]
    flow = Flow(flow.axis, flow.ahead, flow.step / stride, flow.is_framewise and size <= stride, flow.signs)
    return flow.shifted(size - stride) if layer.padding == "same" and size > stride else flow


def pooled(step: Step, flow: Flow) -> Flow:
    index = spatial_index(step, flow.axis or 0)
    if index is None:
        return flow
    size, strides = step.operation.pool_size, step.operation.strides
    size, strides = (v if isinstance(v, int) else v[index] for v in (size, strides))
    return flow.windowed(size - 1, strides, is_single=size == 1)


def upsampled(step: Step, flow: Flow) -> Flow:
    index = spatial_index(step, flow.axis or 0)
    if index is None:
        return flow
    size = step.operation.size
    factor = size if isinstance(size, int) else size[index]
    if factor > 1 and getattr(step.operation, "interpolation", "nearest") != "nearest":
        return MIXED
    return Flow(flow.axis, flow.ahead, flow.step / factor, flow.is_framewise, flow.signs)


def padded(step: Step, flow: Flow) -> Flow:
    index = spatial_index(step, flow.axis or 0)
    if index is None:
        return flow
    sides = step.operation.padding
    return _shifted_by_padding(step, flow, *(sides if isinstance(sides[0], int) else sides[index]))


def padded_by_op(step: Step, flow: Flow) -> Flow:
    widths = step.operation.pad_width
    if step.operation.mode != "constant":  # a reflection brings later positions to the front
        return MIXED
    return _shifted_by_padding(step, flow, *(widths[0] if len(widths) == 1 else widths[flow.axis or 0]))


def _shifted_by_padding(step: Step, flow: Flow, left: int, right: int) -> Flow:
    return flow.shifted(-left, step.sign(f"adds {left} positions in front") if left > right else "")


def cropped(step: Step, flow: Flow) -> Flow:
    index = spatial_index(step, flow.axis or 0)
    if index is None:
        return flow
    sides = step.operation.cropping
    left, right = sides if isinstance(sides[0], int) else sides[index]
    return flow.shifted(left, step.sign(f"takes the last {right} positions off") if right > left else "")


def pooled_globally(step: Step, flow: Flow) -> Flow:
    if spatial_index(step, flow.axis or 0) is not None:
        return MIXED
    return flow if step.option("keepdims") else flow.at(1)


def run_over_time(step: Step, flow: Flow) -> Flow:
    layer = step.operation
    if flow.axis != 1 or not layer.return_sequences or layer.go_backwards:
        return MIXED
    return flow.windowed(0, 1, is_single=False, sign=step.sign("runs forward"))


def summed_so_far(step: Step, flow: Flow) -> Flow:
    axis = step.option("axis")
    if axis is None:
        return MIXED
    is_along = axis % step.rank == flow.axis
    return flow.windowed(0, 1, is_single=False, sign=step.sign("sums up to each position")) if is_along else flow


def gated(step: Step, flow: Flow) -> Flow:
    layer = step.operation
    axis = layer.channel_axis % step.rank
    pooling = check_pooling(
        getattr(layer, "pool_axes", None), getattr(layer, "causal_axis", None), axis, step.inputs[0]
    )
    if flow.axis == axis or flow.axis in pooling.whole:
        return MIXED
    return flow.windowed(0, 1, is_single=flow.axis != pooling.causal)
