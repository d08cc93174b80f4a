"""What a site is, and what can be said of any tensor in a network: layout, channels, whether it has ECA already."""

from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any

import keras

from eca_multi.surgery.candidate import HAS_ECA, Candidate

from ._graph import Call, Graph, Network
from ._kinds import DEPTHWISE, is_container, is_conv, is_eca, is_input, is_passing, kind, own_layout, weighted


@dataclass(eq=False)
class Site:
    """A candidate and where it is in the graph.

    Args:
        candidate: For the plan.
        operation: Of the site; its outputs are gated for all that get them, or
        edges: for these alone: a call, and the tensor it gets.
        products: Calls that ECA stands in for (of SE blocks), and the tensor that it gates.
        tensor: One of the gated tensors, where it is not an output of the operation.
        dropped: Names of the layers of an SE block.
    """

    candidate: Candidate
    operation: Any
    edges: list[tuple[Call, Any]] = field(default_factory=list)
    products: list[tuple[Call, Any]] = field(default_factory=list)
    tensor: Any = None
    dropped: list[str] = field(default_factory=list)


class Places:
    """Answers about one network."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._layouts: dict[int, str] = {}

    def site(self, operation: Any, *, action: str = "after", notes: tuple[str, ...] = (), **fields: Any) -> Site:
        """The site behind an operation, all of whose outputs are gated."""
        network = self.network
        calls = [(graph, call) for graph, call in network.calls() if call.operation is operation]
        graph, call = calls[0]
        tensor = call.outputs[0]
        times = sum(graph.times for graph, _ in calls)
        reason = "several outputs" if len(call.outputs) > 1 else ""
        if is_input(operation):
            reason = "an input of the model"
        elif is_eca(operation):
            reason = "is an ECA"
        elif all(self.is_gated(graph, call.outputs[0]) for graph, call in calls):
            reason = HAS_ECA
        return Site(self.candidate(operation, graph, tensor, times, reason, notes, action=action, **fields), operation)

    def candidate(
        self,
        operation: Any,
        graph: Graph,
        gated: Any,
        times: int,
        reason: str = "",
        notes: tuple[str, ...] = (),
        **fields: Any,
    ) -> Candidate:
        """What a plan says of the gate on `gated`, which `operation` makes."""
        layout = self.layout(graph, gated)
        shape = gated.shape
        known = shape is not None and len(shape) > 2
        reason = reason or self.unfit(graph, gated)
        values: dict[str, Any] = {
            "path": self.network.path(operation),
            "module": operation,
            "module_type": kind(operation),
            "tensor": "its output",
            "channels": shape[1 if layout == "channels_first" else -1] if known else None,
            "layout": layout,
            "aliases": self.network.aliases(operation),
            "calls": times,
            "notes": (*notes, *self._notes(operation, times)),
            "reason": reason,
        }
        return Candidate(**(values | fields))

    def _notes(self, operation: Any, times: int) -> list[str]:
        notes = []
        if isinstance(operation, DEPTHWISE):
            notes.append("depthwise: a gate behind the projection is usual")
        if is_conv(operation) and operation.activation is not keras.activations.linear:
            notes.append(f"gates after the activation ({operation.activation.__name__}) inside the convolution")
        if times > 1 and not is_container(operation):
            notes.append(f"shared: called {times} times, one ECA for all calls")
        return notes

    def unfit(self, graph: Graph, tensor: Any) -> str:
        """Why a tensor is no feature map; "" if it is one."""
        shape = tensor.shape
        if shape is not None and len(shape) < 3:
            return f"rank {len(shape)}: ECA needs (N, C, *S) or (N, *S, C)"
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype not in ("float16", "bfloat16", "float32", "float64"):
            return f"{dtype}, not a floating-point tensor"
        return ""

    def is_tokens(self, graph: Graph, tensor: Any) -> bool:
        """Whether (N, T, C) comes from no convolution of its rank: tokens, whose mean over T means nothing to ECA."""
        shape = tensor.shape
        if shape is None or len(shape) != 3:
            return False
        todo, seen = [tensor], set()
        while todo:
            call = graph.producer.get(id(todo.pop()))
            if call is None or id(call) in seen:
                continue
            seen.add(id(call))
            if weighted(call.operation, also_dense=False):
                return False
            todo += [t for t in call.inputs if t.shape is None or len(t.shape) == 3]
        return True

    def is_gated(self, graph: Graph, tensor: Any) -> bool:
        """Whether nothing but ECA gets a tensor."""
        calls = graph.consumers.get(id(tensor), [])
        leaves = any(tensor is t for t in graph.outputs)
        return bool(calls) and not leaves and all(is_eca(call.operation) for call in calls)

    def layout(self, graph: Graph, tensor: Any) -> str:
        """Of the nearest operation before a tensor that was told one; Keras's own setting where none was."""
        if id(tensor) not in self._layouts:
            self._layouts[id(tensor)] = self._layout(graph, tensor) or keras.config.image_data_format()
        return self._layouts[id(tensor)]

    def _layout(self, graph: Graph, tensor: Any) -> str:
        shape, seen = tensor.shape, set()
        todo = [tensor]
        while todo:
            now = todo.pop(0)
            call = graph.producer.get(id(now))
            if call is None or id(call) in seen:
                continue
            seen.add(id(call))
            rank = len(shape) if shape is not None else getattr(call.operation, "rank", 1) + 2
            found = own_layout(call.operation, rank)
            if is_container(call.operation):
                inner = self.network.graph(call.operation)
                found = self._layout(inner, inner.outputs[0])
            if found:
                return found
            if kind(call.operation) not in ("Permute", "Reshape", "Transpose"):
                todo += [t for t in call.inputs if t.shape is None or shape is None or len(t.shape) == len(shape)]
        return ""

    def step_back(self, graph: Graph, consumer: Call, tensor: Any) -> tuple[Call, Any, bool]:
        """From an operand back over Dropout and its like: the call that gets the gated tensor, that tensor, and
        whether an ECA was passed on the way."""
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

    def edge_sites(self, edges: list[tuple[Graph, Call, Any]]) -> list[Site]:
        """Sites of operands on their way into adds; those of one layer are one site, for they share one ECA.

        Args:
            edges: Of each operand: its graph, the add, and the tensor that the add gets.
        """
        found: dict[int, tuple[Any, list[tuple[Graph, Call, Call, Any, bool]]]] = {}
        for graph, add, operand in edges:
            consumer, tensor, gated = self.step_back(graph, add, operand)
            operation = graph.producer[id(tensor)].operation
            found.setdefault(id(operation), (operation, []))[1].append((graph, add, consumer, tensor, gated))
        sites = []
        for operation, ways in found.values():
            graph, _, _, tensor, _ = ways[0]
            times = sum(g.times for g, t in {id(t): (g, t) for g, _, _, t, _ in ways}.values())
            into = list(dict.fromkeys(self.network.path(add.operation) for _, add, _, _, _ in ways))
            candidate = self.candidate(
                operation,
                graph,
                tensor,
                times,
                HAS_ECA if all(gated for *_, gated in ways) else "",
                action="before_add",
                tensor=f"residual branch into {', '.join(into)}",
                into=", ".join(into),
            )
            open_edges = [(consumer, tensor) for _, _, consumer, tensor, gated in ways if not gated]
            sites.append(Site(candidate, operation, edges=open_edges, tensor=tensor))
        return sites


def without(site: Site, reason: str) -> Site:
    """The site with a reason not to take it."""
    return changed(site, candidate=changed(site.candidate, reason=reason))
