"""A new model with the same graph but for some edits; the old model is read and never written.

`keras.models.clone_model` does not serve: its `call_function` gets an operation and no call, so that one call of a
shared layer could not be changed, nor a tensor gated for one of the calls that get it; and it calls the layers of an SE
block that ECA replaces.
"""

from typing import Any

import keras

from eca_multi.keras._private import arguments, track_again
from eca_multi.keras.surgery._find.check import is_plain, keeps_class, keras_class, own_class
from eca_multi.keras.surgery._find.graph import Call, Graph, Network, operations
from eca_multi.keras.surgery._find.kinds import is_container, is_input, model_in

from .attributes import Copies, own_attributes
from .clone import clone_operation, copy_flags, copy_state, same_random_state
from .compiled import compile_like, copy_optimizer_state, optimized_again
from .edits import Edits, Gate


def rebuilt(network: Network, edits: Edits, *, compiled: bool = True, keep_class: bool = True) -> Any:
    """Return the new model.

    Args:
        network, edits: The old model, and the differences.
        compiled: Whether to compile the new model as the old one.
        keep_class: Whether models of classes with an __init__ of their own stay of these classes, with all attributes,
            or become plain ones.
    """
    with same_random_state():
        return _Rebuild(network, edits, keep_class).run(compiled)


class _Rebuild:
    """Each old layer has one new layer, however often it is called, and so has each gate."""

    def __init__(self, network: Network, edits: Edits, keep_class: bool) -> None:
        self.network = network
        self.edits = edits
        self.keep_class = keep_class
        self._new: dict[int, Any] = {}
        self._old: list[Any] = []
        self._gates: dict[int, Any] = {}
        self._tensors: dict[int, Any] = {}
        self._graphs = {id(graph.model): graph for graph in network.graphs}
        self._copies = Copies(self._in_attribute, lambda value: id(value) in network.paths)

    def run(self, compiled: bool) -> Any:
        model = self.network.model
        new = self._made(model)
        first = self._old.copy()
        self._copy_states(first)
        for operation in self._old:  # which grows: an attribute may hold a model that is in no graph yet
            if is_container(operation) and self._is_kept(operation):
                self._copy_attributes(operation, own_attributes(operation)[1])
        self._copy_states(self._old[len(first) :])
        layers = [operation for operation in self._old if model_in(operation) is None]
        track_again(new)
        self._copy_flags([layer for layer in layers if isinstance(layer, keras.Layer)])
        if compiled and model.compiled:
            compile_like(model, new)
        for old, optimizer in self._copies.optimizers:
            trained = optimized_again(old, new.trainable_variables, self._variables(layers))
            copy_optimizer_state(old, optimizer, trained)
        return new

    def _in_attribute(self, value: Any) -> Any:
        """Return the new one of a layer or model in an attribute; both share what they share in the old model."""
        if not is_container(value) or id(value) in self._graphs:
            return self._made(value)
        self._graphs |= {
            id(graph.model): graph for graph in Network(value).graphs if id(graph.model) not in self._graphs
        }
        new = self._made(value)
        if value.compiled:
            compile_like(value, new)
        return new

    def _copy_states(self, operations: list[Any]) -> None:
        for operation in operations:
            if model_in(operation) is None:
                copy_state(operation, self._new[id(operation)])

    def _made(self, operation: Any) -> Any:
        if id(operation) not in self._new:
            if isinstance(operation, keras.Sequential):
                new = self._sequential(operation)
            elif is_container(operation):
                new = self._functional(operation)
            elif model_in(operation) is not None:
                inner = self._made(model_in(operation))
                new = type(operation)(inner, name=operation.name, dtype=operation.dtype_policy)
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
        inputs = filter(is_input, operations(self._graphs[id(model)].calls))  # `Sequential.layers` leaves them out
        for layer in [*inputs, *model.layers]:
            if id(layer) in self.edits.dropped:
                continue
            layers.append(self._made(layer))
            if id(layer) in self.edits.after:
                layers.append(self._gate(self.edits.after[id(layer)]))
        return self._container(model, keras.Sequential, layers)

    def _functional(self, model: Any) -> Any:
        graph = self._graphs[id(model)]
        made = dict(self._tensors)  # a model in an attribute may share a part of its graph
        gated: dict[tuple[int, int], Any] = {}
        for call in graph.calls:
            if is_input(call.operation):
                made[id(call.outputs[0])] = self._made(call.operation).output
        for tensor in model.inputs:  # one that no output needs may be in no call
            if id(tensor) not in made:
                made[id(tensor)] = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        needed = self._needed(graph)
        for call in graph.calls:
            is_made = all(id(tensor) in made for tensor in call.outputs)
            if id(call) in needed and not is_made:
                self._call(call, made, gated)
        inputs, outputs = (
            keras.tree.map_structure(lambda tensor: made[id(tensor)], struct) for struct in (model.input, model.output)
        )
        self._tensors |= made
        return self._container(model, keras.Model, inputs, outputs)

    def _is_kept(self, model: Any) -> bool:
        return self.keep_class or keeps_class(model)

    def _container(self, model: Any, plain: Any, *arguments: Any) -> Any:
        """Return a model of the old one's class with another graph; its class's own __init__ is not run."""
        if is_plain(model) or not self._is_kept(model):
            new = plain(*arguments, name=model.name)
        else:
            cls = own_class(model)
            new = cls.__new__(cls)
            self._new[id(model)] = new
            self._copy_attributes(model, own_attributes(model)[0])
            keras_class(model).__init__(new, *arguments, name=model.name)
        if new.dtype_policy != model.dtype_policy:
            new.dtype_policy = model.dtype_policy
        return new

    def _copy_attributes(self, model: Any, attributes: dict[str, Any]) -> None:
        new = self._new[id(model)]
        self._copies.knows(self._new, self._tensors)
        for name, value in attributes.items():
            copy = self._copies.of(value, name)
            is_hidden = keras.backend.backend() == "torch" and name in vars(model)  # from torch's table of modules
            if isinstance(value, keras.Layer) and is_hidden:
                object.__setattr__(new, name, copy)
            else:
                setattr(new, name, copy)

    def _variables(self, layers: list[Any]) -> dict[int, Any]:
        """Return the new variable for the id of each old one."""
        pairs = [(layer, self._new[id(layer)]) for layer in layers if isinstance(layer, keras.Layer)]
        return {id(v): copy for old, new in pairs for v, copy in zip(old.variables, new.variables, strict=True)}

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
        for graph in self._graphs.values():
            holds_gates = graph.model is self.network.model and bool(self._gates)  # a frozen root freezes its gates
            self._new[id(graph.model)].trainable = graph.model.trainable or holds_gates
        for layer in layers:
            copy_flags(layer, self._new[id(layer)])
        for gate in self._gates.values():
            gate.trainable = True
