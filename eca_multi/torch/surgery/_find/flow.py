"""The data flow of one module's forward, in which each child that the forward calls is one step.

Symbolic tracing (torch.fx) needs no input. If tracing fails, `recorder` writes down a run on example inputs instead.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from eca_multi.torch._unchanged import put_back

from .classes import is_chain
from .places import children


@dataclass
class Step:
    """One step. `kind` is "input", "module" (`name` is the child's path in the module), "function" or "constant"."""

    kind: str
    name: str
    inputs: list[int] = field(default_factory=list)
    arguments: tuple[Any, ...] = ()


@dataclass
class Flow:
    """The steps of a forward in order, and the numbers of those that the forward returns."""

    steps: list[Step] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    by_run: bool = False

    def calls_of(self, child: str) -> list[int]:
        return [i for i, step in enumerate(self.steps) if step.kind == "module" and step.name == child]

    def users(self, number: int) -> list[int]:
        return [i for i, step in enumerate(self.steps) if number in step.inputs]

    def before(self, number: int) -> set[int]:
        """Return a step and all steps that the step depends on."""
        seen: set[int] = set()
        todo = [number]
        while todo:
            i = todo.pop()
            if i not in seen:
                seen.add(i)
                todo += self.steps[i].inputs
        return seen


class Untraceable(Exception):
    """A forward that symbolic tracing cannot follow."""


def flow_of(module: nn.Module) -> Flow:
    """Trace a module's forward one level deep; raise Untraceable with the reason if torch.fx cannot."""
    if is_chain(module):
        names = [name for name, _ in children(module)]
        steps = [Step("input", "x"), *(Step("module", name, [i]) for i, name in enumerate(names))]
        return Flow(steps, [len(names)])
    tracer = torch.fx.Tracer()
    tracer.is_leaf_module = lambda *_: True  # type: ignore[method-assign]  # each child is one step
    try:
        with put_back(module):
            graph = tracer.trace(module)
    except Exception as error:  # a forward may raise anything for a proxy in place of a tensor
        raise Untraceable(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return _read(graph)


def _read(graph: torch.fx.Graph) -> Flow:
    flow = Flow()
    numbers: dict[torch.fx.Node, int] = {}
    for node in graph.nodes:
        inputs = [numbers[source] for source in node.all_input_nodes]
        if node.op == "output":
            flow.outputs = inputs
            continue
        kind = {"placeholder": "input", "get_attr": "constant", "call_module": "module"}.get(node.op, "function")
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        numbers[node] = len(flow.steps)
        flow.steps.append(Step(kind, name, inputs, tuple(node.args[1:])))
    return flow
