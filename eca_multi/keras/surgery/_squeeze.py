"""Squeeze-and-excitation blocks, found by their shape: x times something that comes from x's global average."""

from typing import Any

from ._graph import Call, Graph
from ._kinds import CONVS, DENSE, is_container, is_global_mean, is_product
from ._places import Places, Site


def squeezes(places: Places) -> list[Site]:
    """The product of each SE block."""
    sites: dict[int, Site] = {}
    for graph, call in places.network.ordered():
        found = excited(graph, call)
        if found is None:
            continue
        tensor, layers = found
        dropped = {id(layer): layer for layer in layers if _ends_here(graph, layer)}
        parameters = sum(layer.count_params() for layer in dropped.values() if hasattr(layer, "count_params"))
        site = places.site(
            call.operation,
            action="replace",
            tensor="the input of the SE block",
            keeps_output=False,
            notes=(f"replaces an SE block: its {parameters} parameters are dropped",),
        )
        site = sites.setdefault(id(call.operation), site)  # one that is called again is one site
        site.products.append((call, tensor))
        site.dropped += [layer.name for layer in dropped.values()]
    return list(sites.values())


def inside(places: Places) -> dict[int, str]:
    """The SE block that an operation belongs to, by the path of its product."""
    return {
        id(layer): places.network.path(call.operation)
        for graph, call in places.network.calls()
        for layer in (excited(graph, call) or ((), ()))[1]
    }


def excited(graph: Graph, product: Call) -> tuple[Any, list[Any]] | None:
    """The tensor that an SE block scales, and its layers; None where a call is not the end of one."""
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


def _ends_here(graph: Graph, layer: Any) -> bool:
    """Whether nothing else in the graph calls a layer."""
    return sum(call.operation is layer for call in graph.calls) == 1
