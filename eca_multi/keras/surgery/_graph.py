"""Reading a Keras model: its graphs, nested ones too, with calls in an order in which they can be made again.

The attributes of Keras that are not public (nodes and histories) are read here and nowhere else.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import keras

from ._kinds import KEEPS_CHANNELS, is_container, is_conv, is_input, kind


@dataclass(eq=False)
class Unbuilt:
    """What is known of a tensor in a Sequential that has no shapes yet."""

    shape: tuple[int | None, ...] | None
    dtype: str


@dataclass(eq=False)
class Call:
    """One call of an operation in one graph; `node` is Keras's own record of it."""

    operation: Any
    inputs: list[Any]
    outputs: list[Any]
    node: Any = None


@dataclass(eq=False)
class Graph:
    """The calls in one model.

    Args:
        model: Functional or Sequential.
        path: Of the model in the root; "" for the root.
        calls: In an order in which each finds its inputs made, and each operation its calls in their old order.
        outputs: The model's output tensors.
        times: How often the model runs in one run of the root.
    """

    model: Any
    path: str
    calls: list[Call]
    outputs: list[Any]
    times: int = 0
    producer: dict[int, Call] = field(init=False)
    consumers: dict[int, list[Call]] = field(init=False)

    def __post_init__(self) -> None:
        self.producer = {id(t): call for call in self.calls for t in call.outputs}
        self.consumers = {}
        for call in self.calls:
            for tensor in call.inputs:
                self.consumers.setdefault(id(tensor), []).append(call)

    def only_consumer(self, tensor: Any) -> Call | None:
        """The one call that gets a tensor, if it is one and the tensor does not leave the model."""
        calls = self.consumers.get(id(tensor), [])
        return calls[0] if len(calls) == 1 and all(tensor is not t for t in self.outputs) else None

    def name(self, operation: Any) -> str:
        return f"{self.path}/{operation.name}" if self.path else str(operation.name)


def read(model: Any, path: str = "") -> Graph:
    """Read one model's own graph."""
    functional = model
    if isinstance(model, keras.Sequential):
        functional = model._functional
        if functional is None:
            return _unbuilt(model, path)
    nodes = [node for depth in sorted(functional._nodes_by_depth, reverse=True) for node in _at(functional, depth)]
    calls = [Call(node.operation, list(node.input_tensors), list(node.outputs), node) for node in _ordered(nodes)]
    return Graph(model, path, calls, list(functional.outputs))


def _at(functional: Any, depth: int) -> list[Any]:
    return list(functional._nodes_by_depth[depth])


def _ordered(nodes: list[Any]) -> list[Any]:
    """Each node behind those that it needs and behind earlier calls of its own operation: a shared layer keeps the
    order of its calls, which Keras numbers."""
    inside = {id(node) for node in nodes}
    earlier: dict[int, Any] = {}
    for operation in {id(node.operation): node.operation for node in nodes}.values():
        own = [node for node in operation._inbound_nodes if id(node) in inside]
        earlier |= {id(later): former for former, later in pairwise(own)}
    done: set[int] = set()
    result: list[Any] = []
    for root in nodes:
        stack = [root]
        while stack:
            node = stack[-1]
            needed = [*node.parent_nodes, *([earlier[id(node)]] if id(node) in earlier else [])]
            waiting = [n for n in needed if id(n) in inside and id(n) not in done]
            if waiting:
                stack += waiting[::-1]
                continue
            stack.pop()
            if id(node) not in done:
                done.add(id(node))
                result.append(node)
    return result


def _unbuilt(model: Any, path: str) -> Graph:
    calls: list[Call] = []
    tensor = Unbuilt(None, "float32")
    for layer in model.layers:
        output = Unbuilt(_shape(layer, tensor.shape), str(getattr(layer, "compute_dtype", "float32")))
        calls.append(Call(layer, [tensor], [output]))
        tensor = output
    return Graph(model, path, calls, [tensor])


def _shape(layer: Any, before: tuple[int | None, ...] | None) -> tuple[int | None, ...] | None:
    if is_container(layer):
        try:
            return tuple(layer.output_shape)
        except (AttributeError, TypeError):  # not built, or several outputs
            return None
    if is_conv(layer):
        filters = getattr(layer, "filters", None)
        free = (None,) * layer.rank
        return (None, filters, *free) if layer.data_format == "channels_first" else (None, *free, filters)
    keeps = any(word in kind(layer) for word in KEEPS_CHANNELS) and "Global" not in kind(layer)
    return before if keeps or kind(layer) == "InsertedECA" else None


class Network:
    """All graphs of a model, the root's first.

    Args:
        model: The root, checked by `_checks.check_model`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graphs: list[Graph] = []
        self._of: dict[int, Graph] = {}
        self.paths: dict[int, list[str]] = {}
        self.operations: dict[str, Any] = {}
        self._read(model, "")
        for names in self.paths.values():
            names.sort(key=lambda name: (name.count("/"), name))  # the same with and without ECA, which moves layers
        self._count()

    def _read(self, model: Any, path: str) -> None:
        first = id(model) not in self._of
        graph = read(model, path) if first else self._of[id(model)]
        if first:
            self._of[id(model)] = graph
            self.graphs.append(graph)
        for operation in {id(call.operation): call.operation for call in graph.calls}.values():
            name = f"{path}/{operation.name}" if path else operation.name
            names = self.paths.setdefault(id(operation), [])
            if name not in names:
                names.append(name)
            self.operations[name] = operation
            if is_container(operation):
                self._read(operation, name)

    def _count(self) -> None:
        def times(graph: Graph) -> int:
            if graph.model is self.model:
                return 1
            return sum(outer.times for outer in waiting(graph))

        def waiting(graph: Graph) -> list[Graph]:
            return [g for g in self.graphs for call in g.calls if call.operation is graph.model]

        left = list(self.graphs)
        while left:
            ready = [g for g in left if g.model is self.model or all(o.times for o in waiting(g))]
            for graph in ready:
                graph.times = times(graph)
            left = [g for g in left if g not in ready]

    def graph(self, model: Any) -> Graph:
        return self._of[id(model)]

    def path(self, operation: Any) -> str:
        return self.paths[id(operation)][0]

    def aliases(self, operation: Any) -> tuple[str, ...]:
        return tuple(self.paths[id(operation)][1:])

    def calls(self) -> Iterator[tuple[Graph, Call]]:
        """All calls of all graphs; a graph that is called twice comes once."""
        for graph in self.graphs:
            for call in graph.calls:
                yield graph, call

    def times(self, operation: Any) -> int:
        """How often an operation is called in one run of the root."""
        return sum(graph.times for graph, call in self.calls() if call.operation is operation)

    def leaves(self) -> list[Any]:
        """All operations but models and inputs, each once, in the network's order."""
        found = {id(c.operation): c.operation for _, c in self.ordered()}
        return [op for op in found.values() if not is_container(op) and not is_input(op)]

    def ordered(self) -> Iterator[tuple[Graph, Call]]:
        """As `calls`, but a nested model's calls come where it is called first: the order in which layers run."""
        seen: set[int] = set()

        def walk(graph: Graph) -> Iterator[tuple[Graph, Call]]:
            seen.add(id(graph.model))
            for call in graph.calls:
                if is_container(call.operation) and id(call.operation) not in seen:
                    yield from walk(self.graph(call.operation))
                yield graph, call

        yield from walk(self.graphs[0])
