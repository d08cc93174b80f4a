"""Squeeze-and-excitation blocks, found by data flow: x times something that comes from x's global average."""

from collections import Counter
from typing import Any

from .graph import Call, Graph
from .kinds import CONVS, DENSE, is_container, is_global_mean, is_product
from .places import Places, Site


def squeezes(places: Places) -> list[Site]:
    sites: dict[int, Site] = {}
    for graph, call in places.network.ordered():
        block = _excited(graph, call)
        if block is None:
            continue
        tensor, layers = block
        counts = Counter(id(call.operation) for call in graph.calls)
        dropped = {id(layer): layer for layer in layers if counts[id(layer)] == 1}  # others stay for their other calls
        parameters = sum(layer.count_params() for layer in dropped.values() if hasattr(layer, "count_params"))
        site = places.site(
            call.operation,
            action="replace",
            tensor="the input of the SE block",
            keeps_output=False,
            notes=(f"replaces an SE block: its {parameters} parameters are dropped",),
        )
        site = sites.setdefault(id(call.operation), site)  # a product that is called twice is one site
        site.products.append((call, tensor))
        site.dropped += [layer.name for layer in dropped.values()]
    return list(sites.values())


def blocks_of(places: Places) -> dict[int, str]:
    """Return the path of the SE block's product for each operation in an SE block."""
    return {
        id(layer): places.network.path(call.operation)
        for graph, call in places.network.calls()
        for layer in (_excited(graph, call) or ((), ()))[1]
    }


def _excited(graph: Graph, product: Call) -> tuple[Any, list[Any]] | None:
    """Return the tensor that an SE block scales, and the block's layers; None where a call does not end a block."""
    if not is_product(product.operation) or len(product.inputs) != 2:
        return None
    for tensor, scale in (product.inputs, product.inputs[::-1]):
        layers = []
        call = graph.producer.get(id(scale))
        while call is not None and len(call.inputs) == 1 and not is_container(call.operation):
            layers.append(call.operation)
            if is_global_mean(call.operation):
                if call.inputs[0] is tensor and any(isinstance(layer, (*CONVS, *DENSE)) for layer in layers):
                    return tensor, layers
                break
            call = graph.producer.get(id(call.inputs[0]))
    return None
