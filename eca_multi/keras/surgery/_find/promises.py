"""What a network's graph promises along an axis: positions that see no later ones, or frames one by one.

A promise holds of one axis of one input and one output, where every way between the two keeps it and something on the
way says that the order of positions is meant: `padding="causal"`, padding in front alone, a recurrent layer,
TimeDistributed. Where a way passes a layer that may mix all positions, nothing is promised.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from eca_multi.keras._private import arguments, same_name_counts, untouched

from .flow.flow import MIXED, Flow
from .flow.rules import flow_through
from .flow.step import Step, known_as
from .graph import Call, Graph, Network, calls_in, is_built, read
from .kinds import is_input, model_in, parts

BATCH = 2


@dataclass(frozen=True)
class Promise:
    """What one output's axis keeps of one input's axis.

    Args:
        input, axis: Number of the model's input, and its axis.
        output, output_axis: Number of the model's output, and its axis.
        is_framewise: Whether position t of the output sees position t of the input alone, else none after t.
        signs: What in the network says so.
    """

    input: int
    axis: int
    output: int
    output_axis: int
    is_framewise: bool
    signs: tuple[str, ...]


class Promises:
    """The promises of a network's graph, and the tensors that lie on the way of each."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._traced: dict[int, Graph | None] = {}
        self._inside: dict[Any, Graph] = {}
        self._kept: dict[Promise, dict[int, set[int]]] = {}
        if is_built(network.model):
            for number, tensor in enumerate(network.model.inputs):
                for axis in range(1, len(tensor.shape)):
                    self._follow(number, axis)

    def __iter__(self) -> Iterator[Promise]:
        return iter(self._kept)

    def axes_at(self, promise: Promise, tensor: Any) -> set[int]:
        """Return the axes of a tensor on which a promise's positions are; none where the promise does not need it."""
        return self._kept[promise].get(id(tensor), set())

    def _follow(self, number: int, axis: int) -> None:
        network = self.network
        at: dict[int, list[tuple[Any, Flow]]] = {}
        inputs = [Flow(axis) if i == number else None for i in range(len(network.model.inputs))]
        outputs = self._through(network.graphs[0], inputs, at)
        for place, (flow, tensor) in enumerate(zip(outputs, network.graphs[0].outputs, strict=True)):
            if flow is None or not flow.axis or not flow.signs or not flow.is_causal:
                continue
            promise = Promise(number, axis, place, flow.axis, flow.keeps_frames, flow.signs)
            needed = network.needed([tensor])
            self._kept[promise] = {
                key: {flow.axis for _, flow in flows if flow.axis} for key, flows in at.items() if key in needed
            }

    def _through(
        self, graph: Graph, inputs: Sequence[Flow | None], at: dict[int, list[tuple[Any, Flow]]], path: str = ""
    ) -> list[Flow | None]:
        """Return the flows of a graph's outputs, and note those of all its tensors in `at`, with the tensors."""
        flows: dict[int, Flow | None] = {id(t): f for t, f in zip(graph.model.inputs, inputs, strict=True)}
        for call in graph.calls:
            if is_input(call.operation):
                made = [flows.get(id(tensor)) for tensor in call.outputs]
            else:
                made = self._of_call(call, [flows.get(id(tensor)) for tensor in call.inputs], at, path)
            for tensor, flow in zip(call.outputs, made, strict=True):
                flows[id(tensor)] = flow
                if flow is not None:
                    at.setdefault(id(tensor), []).append((tensor, flow))
        return [flows.get(id(tensor)) for tensor in graph.outputs]

    def _of_call(
        self, call: Call, flows: list[Flow | None], at: dict[int, list[tuple[Any, Flow]]], path: str
    ) -> list[Flow | None]:
        operation = call.operation
        if not any(flows):
            return [None] * len(call.outputs)
        if MIXED in flows:
            return [MIXED] * len(call.outputs)
        name = f"{path}/{operation.name}" if path else self._path(operation)
        if type(operation) is keras.layers.TimeDistributed:
            return self._of_frames(call, flows, at, name)
        inner = model_in(operation)
        if inner is not None:
            return self._through(self._graph(inner), flows, at)
        if not known_as(operation) or type(operation) is keras.layers.Lambda:
            graph = self._trace(call)
            return [MIXED] * len(call.outputs) if graph is None else self._through(graph, flows, at, name)
        return _of_step(call, flows, name, [t.shape for t in call.inputs], [t.shape for t in call.outputs])

    def _path(self, operation: Any) -> str:
        """Return an operation's path; of one in a model inside of a layer, which no graph tells, its name."""
        paths: Sequence[str] = self.network.paths.get(id(operation), (operation.name,))
        return paths[0]

    def _of_frames(
        self, call: Call, flows: list[Flow | None], at: dict[int, list[tuple[Any, Flow]]], name: str
    ) -> list[Flow | None]:
        """Each frame alone goes through the layer or network inside: for that, the frames' axis is in the batch."""
        layer = call.operation.layer
        sign = f"TimeDistributed {name!r} runs frame by frame"
        inside = [flow and flow.at(flow.axis - 1 if flow.axis else None) for flow in flows]
        if model_in(call.operation) is not None:
            made = self._through(self._graph(layer), inside, at)
        else:
            shapes = ([(t.shape[0], *t.shape[2:]) for t in tensors] for tensors in (call.inputs, call.outputs))
            made = _of_step(Call(layer, call.inputs, call.outputs), inside, name, *shapes)
        return [flow and (flow.at(flow.axis + 1).said(sign) if flow.axis is not None else MIXED) for flow in made]

    def _graph(self, model: Any) -> Graph:
        """Return the graph of a model, which may stand in a layer of the user's own and so in no graph."""
        if model not in self._inside:
            known = any(graph.model is model for graph in self.network.graphs)
            self._inside[model] = self.network.graph(model) if known else read(model)
        return self._inside[model]

    def _trace(self, call: Call) -> Graph | None:
        """Return the graph of a layer of the user's own, read from one symbolic call; None if it cannot be read."""
        if id(call) not in self._traced:
            try:
                with same_name_counts(afresh=True), untouched(parts(call.operation)):
                    self._traced[id(call)] = _graph_of_layer(call)
            except Exception:  # code that needs values, or that no graph tells
                self._traced[id(call)] = None
        return self._traced[id(call)]


def _graph_of_layer(call: Call) -> Graph:
    # Code that repeats a weight for each sample needs the size of the batch.
    shapes = [(tensor.shape[0] or BATCH, *tensor.shape[1:]) for tensor in call.inputs]
    inputs = [keras.Input(batch_shape=s, dtype=t.dtype) for s, t in zip(shapes, call.inputs, strict=True)]
    args, kwargs = arguments(call.node, {id(old): new for old, new in zip(call.inputs, inputs, strict=True)})
    function = keras.Function(inputs, keras.tree.flatten(call.operation.call(*args, **kwargs)))
    return Graph(function, "", calls_in(function), list(function.outputs))


def _of_step(
    call: Call, flows: list[Flow | None], name: str, inputs: Sequence[Any], outputs: Sequence[Any]
) -> list[Flow | None]:
    same = {id(tensor): tensor for tensor in call.inputs}
    args, kwargs = arguments(call.node, same) if call.node is not None else ((), {})
    try:
        return flow_through(Step(call.operation, name, inputs, outputs, args, kwargs), flows)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # arguments that no rule foresees
        return [MIXED] * len(outputs)
