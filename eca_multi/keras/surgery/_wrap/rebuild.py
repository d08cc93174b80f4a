"""A new model with the same graph but for some edits; the old model is read and never written.

`keras.models.clone_model` does not serve: its `call_function` gets an operation and no call, so that one call of a
shared layer could not be changed, nor a tensor gated for one of the calls that get it; and it calls the layers of an SE
block that ECA replaces.
"""

import warnings
from typing import Any

import keras

from eca_multi._printable import printable
from eca_multi.keras._private import arguments
from eca_multi.keras.surgery._find.check import keeps_class
from eca_multi.keras.surgery._find.graph import Call, Graph, Network, operations
from eca_multi.keras.surgery._find.kinds import is_container, is_input, is_model

from .clone import clone_operation, copy_flags, copy_state, same_random_state
from .edits import Edits, Gate


def rebuilt(network: Network, edits: Edits, compiled: bool = True) -> Any:
    """Return the new model, compiled as the old model where that is asked for."""
    with same_random_state():
        return _Rebuild(network, edits).run(compiled)


class _Rebuild:
    """Each old layer has one new layer, however often it is called, and so has each gate."""

    def __init__(self, network: Network, edits: Edits) -> None:
        self.network = network
        self.edits = edits
        self._new: dict[int, Any] = {}
        self._old: list[Any] = []
        self._gates: dict[int, Any] = {}

    def run(self, compiled: bool) -> Any:
        model = self.network.model
        new = self._made(model)
        layers = [operation for operation in self._old if not is_model(operation)]
        for layer in layers:
            copy_state(layer, self._new[id(layer)])
        self._copy_flags([layer for layer in layers if isinstance(layer, keras.Layer)])
        if compiled and model.compiled:
            _compile(model, new)
        return new

    def _made(self, operation: Any) -> Any:
        if id(operation) not in self._new:
            if isinstance(operation, keras.Sequential):
                new = self._sequential(operation)
            elif is_container(operation):
                new = self._functional(operation)
            else:
                new = clone_operation(operation)
            self._new[id(operation)] = new
            self._old.append(operation)
        return self._new[id(operation)]

    def _gate(self, make: Gate) -> Any:
        if id(make) not in self._gates:
            self._gates[id(make)] = make()
        return self._gates[id(make)]

    def _sequential(self, model: Any) -> Any:
        layers = []
        inputs = filter(is_input, operations(self.network.graph(model).calls))  # `Sequential.layers` leaves them out
        for layer in [*inputs, *model.layers]:
            if id(layer) in self.edits.dropped:
                continue
            layers.append(self._made(layer))
            if id(layer) in self.edits.after:
                layers.append(self._gate(self.edits.after[id(layer)]))
        cls = type(model) if keeps_class(model) else keras.Sequential
        return cls(layers, name=model.name, trainable=model.trainable)

    def _functional(self, model: Any) -> Any:
        graph = self.network.graph(model)
        made: dict[int, Any] = {}
        gated: dict[tuple[int, int], Any] = {}
        for call in graph.calls:
            if is_input(call.operation):
                made[id(call.outputs[0])] = self._made(call.operation).output
        for tensor in model.inputs:  # one that no output needs may be in no call
            if id(tensor) not in made:
                made[id(tensor)] = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        needed = self._needed(graph)
        for call in graph.calls:
            if id(call) in needed and not is_input(call.operation):
                self._call(call, made, gated)
        inputs, outputs = (
            keras.tree.map_structure(lambda tensor: made[id(tensor)], struct) for struct in (model.input, model.output)
        )
        cls = type(model) if keeps_class(model) else keras.Model
        return cls(inputs, outputs, name=model.name)

    def _call(self, call: Call, made: dict[int, Any], gated: dict[tuple[int, int], Any]) -> None:
        edits = self.edits
        if id(call.operation) in edits.dropped:
            made[id(call.outputs[0])] = made[id(call.inputs[0])]
            return
        if id(call.node) in edits.products:
            tensor, gate = edits.products[id(call.node)]
            made[id(call.outputs[0])] = self._gate(gate)(made[id(tensor)])
            return
        inputs = {}
        for tensor in call.inputs:
            inputs[id(tensor)] = made[id(tensor)]
            edge = edits.edges.get((id(call.node), id(tensor)))
            if edge is not None:
                key = (id(edge), id(tensor))
                if key not in gated:
                    gated[key] = self._gate(edge)(made[id(tensor)])
                inputs[id(tensor)] = gated[key]
        args, kwargs = arguments(call.node, inputs)
        outputs = keras.tree.flatten(self._made(call.operation)(*args, **kwargs))
        after = edits.after.get(id(call.operation))
        if after is not None:
            outputs = [self._gate(after)(outputs[0])]
        made |= {id(old): new for old, new in zip(call.outputs, outputs, strict=True)}

    def _needed(self, graph: Graph) -> set[int]:
        """Return the calls that the outputs still need: those of a replaced SE block are not among them."""
        needed: set[int] = set()
        todo = list(graph.outputs)
        while todo:
            call = graph.producer.get(id(todo.pop()))
            if call is not None and id(call) not in needed:
                needed.add(id(call))
                product = self.edits.products.get(id(call.node))
                todo += [product[0]] if product else call.inputs
        return needed

    def _copy_flags(self, layers: list[Any]) -> None:
        """A model and a layer pass their flag on to all in them, so copy from outside in, variables last."""
        for graph in self.network.graphs:
            holds_gates = graph.model is self.network.model and bool(self._gates)  # a frozen root freezes its gates
            self._new[id(graph.model)].trainable = graph.model.trainable or holds_gates
        for layer in layers:
            copy_flags(layer, self._new[id(layer)])
        for gate in self._gates.values():
            gate.trainable = True


def _compile(old: Any, new: Any) -> None:
    """Carry over loss, metrics and the optimizer's settings; its state belongs to the old variables."""
    try:
        new.compile_from_config(old.get_compile_config())
    except Exception as error:  # a loss or metric that Keras does not know by name
        warnings.warn(
            f"The new model is not compiled: what {old.name!r} was compiled with cannot be made again "
            f"({printable(str(error).strip().splitlines()[0][:120])}). Call its compile().",
            stacklevel=5,
        )
