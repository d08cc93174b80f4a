"""The layer that insert_eca puts into a network, and all such layers of a network with their entries of a plan."""

from collections.abc import Sequence
from typing import Any

import keras

from eca_multi.keras.layers import ECA
from eca_multi.keras.surgery._find.graph import Call, Graph, Network, operations
from eca_multi.keras.surgery._find.kinds import is_add, is_eca, is_passing, kind
from eca_multi.surgery.entry import ECAEntry

TENSORS = {"after": "its output", "replace": "the input of the SE block"}


@keras.saving.register_keras_serializable(package="eca_multi")
class InsertedECA(ECA):
    """An ECA that records its insertion, so that it can be listed and taken out, after a reload too.

    Args:
        action: As in `ECAEntry`.
        where: The option of `insert_eca`, as the plan records it.
        site: Name of the layer at which the ECA was inserted.
        dropped: Names of the layers of the SE block that the ECA replaced.
        **kwargs: Of `ECA`.
    """

    def __init__(
        self,
        kernel_size: int | None = None,
        *,
        action: str = "after",
        where: str = "paths",
        site: str = "",
        dropped: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_size, **kwargs)
        self.action = action
        self.where = where
        self.site = site
        self.dropped = list(dropped)

    def get_config(self) -> dict[str, Any]:
        record = {"action": self.action, "where": self.where, "site": self.site, "dropped": list(self.dropped)}
        return super().get_config() | record


def installed_layers(network: Network) -> list[tuple[InsertedECA, ECAEntry]]:
    """Return each inserted layer with its entry, in the network's order."""
    first: dict[int, tuple[Graph, Call]] = {}
    for graph, call in network.ordered():
        if isinstance(call.operation, InsertedECA):
            first.setdefault(id(call.operation), (graph, call))
    entries = [(call.operation, _entry(network, graph, call)) for graph, call in first.values()]
    place = {path: number for number, op in enumerate(network.in_order()) for path in network.paths[id(op)]}
    return sorted(entries, key=lambda pair: place.get(pair[1].path, len(place)))


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
        pool_axes=layer.pool_axes,
        causal_axis=layer.causal_axis,
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
