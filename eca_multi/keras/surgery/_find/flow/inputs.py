"""Rules for operations of several tensors, each of which may depend on the input or not."""

from collections.abc import Sequence

from .flow import MIXED, Flow, joined
from .step import Step


def elementwise(step: Step, flows: Sequence[Flow | None]) -> Flow | None:
    """Inputs of lower rank are broadcast, their axes counted from the end."""
    rank = len(step.outputs[0])
    placed = [
        None if flow is None else flow.at((flow.axis or 0) + rank - len(shape))
        for flow, shape in zip(flows, step.inputs, strict=True)
    ]
    flow = joined(placed)
    activation = getattr(step.operation, "activation", None)
    if flow is not None and flow.axis == rank - 1 and getattr(activation, "__name__", "") in ("softmax", "log_softmax"):
        return MIXED
    return flow


def concatenated(step: Step, flows: Sequence[Flow | None]) -> Flow | None:
    """Along the axis itself, constants in front of a tensor are padding on the left."""
    axis = (step.option("axis") or 0) % step.rank
    if all(flow is None or flow.axis != axis for flow in flows):
        return joined(flows)
    number = next(i for i, flow in enumerate(flows) if flow is not None)
    lengths = [shape[axis] for shape in step.inputs[:number]]
    if sum(flow is not None for flow in flows) > 1 or None in lengths:
        return MIXED
    flow, left = flows[number], sum(length or 0 for length in lengths)
    return flow and flow.shifted(-left, step.sign(f"adds {left} constant positions in front") if left else "")


def attended(step: Step, flows: Sequence[Flow | None]) -> Flow | None:
    if all(flow is None for flow in flows[1:]) and flows[0] is not None and flows[0].axis == 1:
        return flows[0]  # a query looks at what the input does not reach
    together = joined(flows)
    if together is None or together.axis != 1 or not step.option("use_causal_mask") or flows[0] is None:
        return MIXED
    return together.windowed(0, 1, is_single=False, sign=step.sign("has use_causal_mask=True"))
