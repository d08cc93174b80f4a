"""The inserted layers of a network, and the entries of the plan that they carry out."""

from typing import Any

from eca_multi.keras.surgery._find.graph import Call, Graph, Network, operations
from eca_multi.keras.surgery._find.kinds import is_add, is_eca, is_passing, kind
from eca_multi.surgery.entry import ECAEntry

from .layer import InsertedECA

TENSORS = {"after": "its output", "replace": "the input of the SE block"}


def installed_layers(network: Network) -> list[tuple[InsertedECA, ECAEntry]]:
    """Return each inserted layer with its entry, in the network's order."""
    first: dict[int, tuple[Graph, Call]] = {}
    for graph, call in network.ordered():
        if isinstance(call.operation, InsertedECA):
            first.setdefault(id(call.operation), (graph, call))
    return [(call.operation, _entry(network, graph, call)) for graph, call in first.values()]


def _entry(network: Network, graph: Graph, call: Call) -> ECAEntry:
    layer = call.operation
    source = graph.producer.get(id(call.inputs[0]))
    while source is not None and is_eca(source.operation):
        source = graph.producer.get(id(source.inputs[0]))
    into = ", ".join(network.path(add) for add in _adds(network, layer)) if layer.action == "before_add" else ""
    path, module_type = graph.name(layer).removesuffix(layer.name) + layer.site, ""
    aliases: tuple[str, ...] = ()
    if source is not None and layer.action != "replace":
        site = source.operation
        path, module_type, aliases = network.path(site), kind(site), network.aliases(site)
    shape = call.outputs[0].shape
    return ECAEntry(
        path=path,
        action=layer.action,
        module_type=module_type,
        tensor=TENSORS.get(layer.action, f"residual branch into {into}"),
        channels=0 if shape is None else int(shape[layer.channel_axis] or 0),
        layout=layer.data_format,
        kernel_size=layer.kernel_size,
        parameters=layer.kernel_size,
        into=into,
        aliases=aliases,
        calls=network.times(layer) if call.node is not None else None,
        keeps_output=layer.init == "identity" and layer.action != "replace",
    )


def _adds(network: Network, layer: InsertedECA) -> list[Any]:
    """Return the adds that an ECA's output runs into, over Dropout and its like."""
    adds = []
    for graph, call in network.calls(layer):
        todo = [call.outputs[0]]
        while todo:
            for consumer in graph.consumers.get(id(todo.pop()), []):
                if is_add(consumer.operation):
                    adds.append(consumer)
                elif is_passing(consumer.operation) or is_eca(consumer.operation):
                    todo += consumer.outputs
    return operations(adds)
