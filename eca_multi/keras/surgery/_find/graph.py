"""Reading a Keras model: its graphs, nested ones too, with calls in an order in which they can be made again."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import keras

from eca_multi.keras._private import calls_of, nodes_of

from .kinds import KEEPS_CHANNELS, is_container, is_conv, is_eca, is_input, kind, model_in


@dataclass(eq=False)
class Unbuilt:
    """What is known of a tensor in a Sequential that has no shapes yet."""

    shape: tuple[int | None, ...] | None
    dtype: str


@dataclass(eq=False)
class Call:
    """One call of an operation in one graph; `node` is Keras's own record of the call."""

    operation: Any
    inputs: list[Any]
    outputs: list[Any]
    node: Any = None


@dataclass(eq=False)
class Graph:
    """The calls in one model, each after those that make its inputs; each operation's calls keep their order.

    `path` leads from the root to the model ("" for the root); `times` counts the runs of the model in one of the root.
    """

    model: Any
    path: str
    calls: list[Call]
    outputs: list[Any]
    times: int = 0
    producer: dict[int, Call] = field(init=False)
    consumers: dict[int, list[Call]] = field(init=False)

    def __post_init__(self) -> None:
        self.producer = {id(tensor): call for call in self.calls for tensor in call.outputs}
        self.consumers = {}
        for call in self.calls:
            for tensor in call.inputs:
                self.consumers.setdefault(id(tensor), []).append(call)

    def in_order(self) -> list[Call]:
        """Return the calls in an order that ECAs do not change: those far from the outputs first, as Keras orders them.

        Calls of the same distance, ECAs not counted, come as their inputs are read from the outputs backwards.
        """
        distance: dict[int, int] = {}
        for call in reversed(self.calls):
            after = [later for tensor in call.outputs for later in self.consumers.get(id(tensor), [])]
            distance[id(call)] = max((distance[id(c)] + (not is_eca(c.operation)) for c in after), default=0)
        rank: dict[int, int] = {}
        todo = list(reversed(self.outputs))
        while todo:
            found = self.producer.get(id(todo.pop()))
            if found is not None and id(found) not in rank:
                rank[id(found)] = len(rank)
                todo += reversed(found.inputs)
        return sorted(self.calls, key=lambda c: (-distance[id(c)], is_eca(c.operation), rank.get(id(c), len(rank))))

    def only_consumer(self, tensor: Any) -> Call | None:
        """Return the call that gets a tensor, if there is one call and the tensor does not leave the model."""
        calls = self.consumers.get(id(tensor), [])
        return calls[0] if len(calls) == 1 and all(tensor is not output for output in self.outputs) else None

    def name(self, operation: Any) -> str:
        return f"{self.path}/{operation.name}" if self.path else str(operation.name)


def is_built(model: Any) -> bool:
    """Whether a model has a graph: a Sequential without an input has none yet."""
    try:
        return bool(model.inputs)
    except (AttributeError, ValueError):  # of a Sequential
        return False


def read(model: Any, path: str = "") -> Graph:
    """Read the graph of one model, not of those inside."""
    if not is_built(model):
        return _unbuilt(model, path)
    # What Keras makes of a Sequential's layers has no public name; its inputs and outputs have.
    sequential = isinstance(model, keras.Sequential)
    function = keras.Function(model.inputs, model.outputs, name=model.name) if sequential else model
    return Graph(model, path, calls_in(function), list(model.outputs))


def calls_in(function: Any) -> list[Call]:
    """Return the calls of a graph, each after those that make its inputs."""
    return [Call(n.operation, list(n.input_tensors), list(n.outputs), n) for n in _ordered(nodes_of(function))]


def operations(calls: Iterable[Call]) -> list[Any]:
    """Return the operations that are called, each once, in the order of the first calls."""
    return list({id(call.operation): call.operation for call in calls}.values())


def _ordered(nodes: list[Any]) -> list[Any]:
    """Sort nodes: each comes after the nodes that it needs, and after the earlier calls of its operation, since Keras
    numbers the calls of a shared layer."""
    inside = {id(node) for node in nodes}
    earlier: dict[int, Any] = {}
    for operation in {id(node.operation): node.operation for node in nodes}.values():
        of_operation = [node for node in calls_of(operation) if id(node) in inside]
        earlier |= {id(later): former for former, later in pairwise(of_operation)}
    done: dict[int, Any] = {}
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
            done.setdefault(id(node), node)
    return list(done.values())


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
    return before if keeps or is_eca(layer) else None


class Network:
    """All graphs of a model that `check_model` accepted, the root's first."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graphs: list[Graph] = []
        self._graph_of: dict[int, Graph] = {}
        self.paths: dict[int, list[str]] = {}
        self.operations: dict[str, Any] = {}
        self._read(model, "")
        for names in self.paths.values():
            names.sort(key=lambda name: (name.count("/"), name))  # the same with and without ECA, which moves layers
        self._count()

    def _read(self, model: Any, path: str) -> None:
        if id(model) not in self._graph_of:
            self._graph_of[id(model)] = read(model, path)
            self.graphs.append(self._graph_of[id(model)])
        for operation in operations(self._graph_of[id(model)].calls):
            name = f"{path}/{operation.name}" if path else operation.name
            names = self.paths.setdefault(id(operation), [])
            if name not in names:
                names.append(name)
            self.operations[name] = operation
            inner = model_in(operation)
            if inner is not None:
                self._read(inner, name if inner is operation else f"{name}/{inner.name}")

    def _count(self) -> None:
        """Set `times` of each graph, after those of the graphs that call it."""
        callers = {
            id(graph): [g for g in self.graphs for call in g.calls if model_in(call.operation) is graph.model]
            for graph in self.graphs
        }
        left = list(self.graphs)
        while left:
            ready = [graph for graph in left if all(outer.times for outer in callers[id(graph)])]
            for graph in ready:
                graph.times = sum(outer.times for outer in callers[id(graph)]) or 1  # the root has no callers
            left = [graph for graph in left if graph not in ready]

    def graph(self, model: Any) -> Graph:
        return self._graph_of[id(model)]

    def path(self, operation: Any) -> str:
        return self.paths[id(operation)][0]

    def aliases(self, operation: Any) -> tuple[str, ...]:
        return tuple(self.paths[id(operation)][1:])

    def calls(self, operation: Any = None) -> Iterator[tuple[Graph, Call]]:
        """Yield all calls, or those of one operation; a graph that is called twice comes once."""
        for graph in self.graphs:
            for call in graph.calls:
                if operation is None or call.operation is operation:
                    yield graph, call

    def times(self, operation: Any) -> int:
        """Return how often an operation is called in one run of the root."""
        return sum(graph.times for graph, _ in self.calls(operation))

    def needed(self, outputs: Sequence[Any] | None = None) -> set[int]:
        """Return the `id`s of the tensors that outputs of the root, all if None, need.

        The root may use some outputs of a nested model.
        """
        found: set[int] = set()
        todo = [(self.graphs[0], tensor) for tensor in (self.graphs[0].outputs if outputs is None else outputs)]
        while todo:
            graph, tensor = todo.pop()
            call = graph.producer.get(id(tensor))
            if id(tensor) in found or call is None:
                continue
            found.add(id(tensor))
            todo += [(graph, before) for before in call.inputs]
            inner = model_in(call.operation)
            if inner is not None:
                pairs = zip(call.outputs, self.graph(inner).outputs, strict=True)
                todo += [(self.graph(inner), inside) for outside, inside in pairs if outside is tensor]
        return found

    def ordered(self) -> Iterator[tuple[Graph, Call]]:
        """As `calls`, but a nested model's calls come where it is called first: the order in which layers run."""
        entered: set[int] = set()

        def walk(graph: Graph) -> Iterator[tuple[Graph, Call]]:
            entered.add(id(graph.model))
            for call in graph.in_order():
                inner = model_in(call.operation)
                if inner is not None and id(inner) not in entered:
                    yield from walk(self.graph(inner))
                yield graph, call

        yield from walk(self.graphs[0])

    def in_order(self) -> list[Any]:
        """Return each operation once, in the order in which they run."""
        return operations(call for _, call in self.ordered())

    def leaves(self) -> list[Any]:
        """As `in_order`, without models and inputs."""
        return [operation for operation in self.in_order() if model_in(operation) is None and not is_input(operation)]
