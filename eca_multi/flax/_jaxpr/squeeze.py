"""Squeeze-and-excitation blocks in a jaxpr: modules that multiply their own input by a gate from its global mean."""

from .flow import MOVES, SILENT, Flow

POOLING = ("reduce_sum", "reduce_max", "reduce_window_sum", "reduce_window_max", "reduce_window")


def gates_its_input(flow: Flow, path: str) -> bool:
    """Whether the module at `path` returns its first input times a gate (N, C) that is made of that input alone."""
    into = next((n for n in flow.tags("in", path) if flow.nodes[n].mark.leaf == 0), None)  # type: ignore[union-attr]  # a tag has a mark
    out = next(flow.tags("out", path), None)
    if into is None or out is None:
        return False
    shape = flow.nodes[into].shape
    if len(shape) < 3 or flow.nodes[out].shape != shape:
        return False
    product = flow.nodes[_back(flow, out, into)]
    if product.op != "mul" or len(product.ins) != 2:
        return False
    operands = [_back(flow, i, into) for i in product.ins]
    if into not in operands:
        return False
    gate = operands[1 - operands.index(into)]
    if gate == into or flow.nodes[gate].size > shape[0] * max(shape[1], shape[-1]):
        return False
    behind = flow.behind(gate)
    return into in behind and any(flow.nodes[n].op in POOLING for n in behind - flow.behind(into))


def _back(flow: Flow, number: int, stop: int) -> int:
    """Follow a value back through operations that change no number: tags, reshapes, broadcasts."""
    node = flow.nodes[number]
    while number != stop and len(node.ins) == 1 and (node.op in SILENT or node.op in MOVES or node.op == "tag"):
        number = node.ins[0]
        node = flow.nodes[number]
    return number
