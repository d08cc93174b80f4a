"""What a site is, and what can be said of any tensor in a network: layout, channels, whether an ECA gates it."""

from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any

import keras

from eca_multi.surgery.at_start import UNUSED
from eca_multi.surgery.candidate import HAS_ECA, Candidate
from eca_multi.surgery.reasons import UNKNOWN_AXIS

from .graph import Call, Graph, Network
from .kinds import DEPTHWISE, is_container, is_conv, is_eca, is_input, is_passing, kind, layout_of, model_in, weighted
from .start import notes_at_start

FLOATING = ("float16", "bfloat16", "float32", "float64")


@dataclass(eq=False)
class Site:
    """A candidate and its place in the graph.

    Args:
        candidate: For the plan.
        operation: ECA gates its outputs for all calls that get them, if there are neither edges nor products.
        edges: Calls and the tensor that each gets: ECA gates that tensor for these calls alone.
        products: Calls that ECA replaces (of SE blocks), and the tensor that ECA gates.
        tensor: One of the gated tensors, where it is not an output of the operation.
        dropped: Names of the layers of an SE block.
    """

    candidate: Candidate
    operation: Any
    edges: list[tuple[Call, Any]] = field(default_factory=list)
    products: list[tuple[Call, Any]] = field(default_factory=list)
    tensor: Any = None
    dropped: list[str] = field(default_factory=list)


def without(site: Site, reason: str) -> Site:
    """Return the site with a reason not to take it."""
    return changed(site, candidate=changed(site.candidate, reason=reason))


class Places:
    """Answers about one network."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._layouts: dict[int, str] = {}
        self._needed = network.needed()

    def site(self, operation: Any, *, action: str = "after", notes: tuple[str, ...] = (), **fields: Any) -> Site:
        """Return the site behind an operation, all of whose outputs are gated."""
        calls = list(self.network.calls(operation))
        graph, call = calls[0]
        times = self.network.times(operation)
        reason = "several outputs" if len(call.outputs) > 1 else ""
        if is_input(operation):
            reason = "an input of the model"
        elif is_eca(operation):
            reason = "is an ECA"
        elif all(self.is_gated(graph, call.outputs[0]) for graph, call in calls):
            reason = HAS_ECA
        fields["action"] = action
        return Site(self._candidate(operation, graph, call.outputs[0], times, reason, notes, **fields), operation)

    def edge_sites(self, edges: list[tuple[Graph, Call, Any]]) -> list[Site]:
        """Return the sites of operands, each with its graph and its add; one layer's operands are one site."""
        ways_of: dict[int, list[tuple[Graph, Call, Call, Any, bool]]] = {}
        for graph, add, operand in edges:
            consumer, tensor, gated = self._step_back(graph, add, operand)
            source = graph.producer[id(tensor)].operation
            ways_of.setdefault(id(source), []).append((graph, add, consumer, tensor, gated))
        return [self._edge_site(ways) for ways in ways_of.values()]

    def source(self, graph: Graph, add: Call, operand: Any) -> Call:
        """Return the call that makes the tensor which is gated where an operand of an add is a branch."""
        return graph.producer[id(self._step_back(graph, add, operand)[1])]

    def _edge_site(self, ways: list[tuple[Graph, Call, Call, Any, bool]]) -> Site:
        graph, _, _, tensor, _ = ways[0]
        operation = graph.producer[id(tensor)].operation
        into = ", ".join(dict.fromkeys(self.network.path(add.operation) for _, add, *_ in ways))
        candidate = self._candidate(
            operation,
            graph,
            tensor,
            sum({id(tensor): graph.times for graph, _, _, tensor, _ in ways}.values()),
            HAS_ECA if all(gated for *_, gated in ways) else "",
            action="before_add",
            tensor=f"residual branch into {into}",
            into=into,
        )
        not_gated = [(consumer, tensor) for _, _, consumer, tensor, gated in ways if not gated]
        return Site(candidate, operation, edges=not_gated, tensor=tensor)

    def _candidate(
        self,
        operation: Any,
        graph: Graph,
        gated: Any,
        times: int,
        reason: str = "",
        notes: tuple[str, ...] = (),
        **fields: Any,
    ) -> Candidate:
        """Return what a plan says of the gate on a tensor (`gated`) that an operation makes."""
        layout = self.layout(graph, gated)
        shape = gated.shape
        has_channels = shape is not None and len(shape) > 2
        unused = () if id(gated) in self._needed else (UNUSED,)
        values: dict[str, Any] = {
            "path": self.network.path(operation),
            "module": operation,
            "module_type": kind(operation),
            "tensor": "its output",
            "channels": shape[1 if layout == "channels_first" else -1] if has_channels else None,
            "layout": layout,
            "aliases": self.network.aliases(operation),
            "calls": times,
            "notes": (*notes, *_notes(operation, times), *notes_at_start(operation), *unused),
            "reason": reason or unfit(gated),
            "shape": tuple(shape or ()),
        }
        if has_channels and not self._layouts[id(gated)] and not is_input(operation):
            values["axis_reason"] = UNKNOWN_AXIS.format(path=values["path"], seen="")
        return Candidate(**(values | fields))

    def is_tokens(self, graph: Graph, tensor: Any) -> bool:
        """Whether no convolution makes (N, T, C): tokens, for which a mean over T is no mean over a feature map."""
        shape = tensor.shape
        if shape is None or len(shape) != 3:
            return False
        todo, visited = [tensor], set()
        while todo:
            call = graph.producer.get(id(todo.pop()))
            if call is None or id(call) in visited:
                continue
            visited.add(id(call))
            if weighted(call.operation, also_dense=False):
                return False
            todo += [t for t in call.inputs if t.shape is None or len(t.shape) == 3]
        return True

    def is_gated(self, graph: Graph, tensor: Any) -> bool:
        """Whether ECA layers alone get a tensor."""
        calls = graph.consumers.get(id(tensor), [])
        leaves = any(tensor is output for output in graph.outputs)
        return bool(calls) and not leaves and all(is_eca(call.operation) for call in calls)

    def layout(self, graph: Graph, tensor: Any) -> str:
        """Return the layout of the nearest operation before a tensor whose arguments say one, else Keras's setting."""
        if id(tensor) not in self._layouts:
            self._layouts[id(tensor)] = self._layout(graph, tensor)
        return self._layouts[id(tensor)] or keras.config.image_data_format()

    def _layout(self, graph: Graph, tensor: Any) -> str:
        shape, visited = tensor.shape, set()
        todo = [tensor]
        while todo:
            call = graph.producer.get(id(todo.pop(0)))
            if call is None or id(call) in visited:
                continue
            visited.add(id(call))
            model = model_in(call.operation)
            if model is not None:
                inner = self.network.graph(model)
                layout = self._layout(inner, inner.outputs[0])
            else:
                rank = len(shape) if shape is not None else getattr(call.operation, "rank", 1) + 2
                layout = layout_of(call.operation, rank)
            if layout:
                return layout
            if kind(call.operation) not in ("Permute", "Reshape", "Transpose"):
                todo += [t for t in call.inputs if t.shape is None or shape is None or len(t.shape) == len(shape)]
        return ""

    def _step_back(self, graph: Graph, consumer: Call, tensor: Any) -> tuple[Call, Any, bool]:
        """Go from an operand back over Dropout and its like, to the call that gets the tensor to gate, and that tensor.

        The last value says whether an ECA stood on the way.
        """
        gated = False
        while True:
            call = graph.producer.get(id(tensor))
            if call is None or len(call.inputs) != 1:
                return consumer, tensor, gated
            if is_eca(call.operation):
                gated = True
            elif not is_passing(call.operation) or graph.only_consumer(tensor) is not consumer:
                return consumer, tensor, gated
            consumer, tensor = call, call.inputs[0]


def unfit(tensor: Any) -> str:
    """Return why a tensor is no feature map; "" if it is one."""
    if tensor.shape is not None and len(tensor.shape) < 3:
        return f"rank {len(tensor.shape)}: ECA needs (N, C, *S) or (N, *S, C)"
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return "" if dtype in FLOATING else f"{dtype}, not a floating-point tensor"


def _notes(operation: Any, times: int) -> list[str]:
    notes = []
    if isinstance(operation, DEPTHWISE):
        notes.append("depthwise: a gate behind the projection is usual")
    if is_conv(operation) and operation.activation is not keras.activations.linear:
        notes.append(f"gates after the activation ({operation.activation.__name__}) inside the convolution")
    if times > 1 and not is_container(operation):
        notes.append(f"shared: called {times} times, one ECA for all calls")
    return notes
