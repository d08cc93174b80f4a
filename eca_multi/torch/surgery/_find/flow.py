"""The data flow of one module's forward, in which each module that the forward calls is one step.

Symbolic tracing (torch.fx) needs no input. If tracing fails, `recorder` writes down a run on example inputs instead.
"""

import inspect
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eca_multi.torch._private import tree_leaves
from eca_multi.torch._unchanged import put_back

from .classes import is_chain
from .places import children

ADDS = {"add", "iadd", "radd", "lerp", "addcmul", "addcdiv"}  # with one factor or two that no input makes
RESHAPES = {"view", "reshape", "flatten"}
SIZES = {"size", "dim", "numel", "ndimension", "get_device", "len"}
# Functions that take the size or the type of a tensor and none of its values; those of LIKE of their second tensor.
FILLED = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like",
          "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"}  # fmt: skip
LIKE = {"type_as", "view_as", "reshape_as", "expand_as", "to"}
SIZE_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "is_cuda", "requires_grad"}
NOT_THE_NETWORKS = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}")


@dataclass
class Step:
    """One step.

    `kind` is "input", "module" (`name` is the path in the module whose forward this is), "function" (`name` without
    underscores at its ends: add for add_ and __add__) or "constant". `arguments` are those behind the first; `part`
    numbers the tensor among several that a call returned; `line` says where the code adds; `is_inside`: the step is of
    the forward of a module that this forward calls.
    """

    kind: str
    name: str
    inputs: list[int] = field(default_factory=list)
    arguments: tuple[Any, ...] = ()
    part: int | None = None
    line: str = ""
    is_inside: bool = False

    @property
    def is_size(self) -> bool:
        """Whether the step takes the size or the type of a tensor, and none of its values."""
        is_attribute = self.name == "getattr" and bool(self.arguments) and self.arguments[0] in SIZE_ATTRIBUTES
        return self.kind == "function" and (self.name in SIZES | FILLED or is_attribute)


@dataclass
class Flow:
    """The steps of a forward in order, and the numbers of those that the forward returns, one for each tensor."""

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

    def data(self) -> set[int]:
        """Return the steps that hold numbers made of an input's: no constant, and no size of a tensor."""
        found: set[int] = set()
        for i, step in enumerate(self.steps):
            if step.kind == "input" or (not step.is_size and found & set(step.inputs)):
                found.add(i)
        return found


class Untraceable(Exception):
    """A forward that symbolic tracing cannot follow."""


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True  # each module that the forward calls is one step

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> torch.fx.Node:
        node = super().create_node(kind, target, *args, **kwargs)
        if kind.startswith("call_") and name_of(target) in ADDS:
            node.meta["line"] = line_of_caller()
        return node


def flow_of(module: nn.Module) -> Flow:
    """Trace a module's forward one level deep; raise Untraceable with the reason if torch.fx cannot."""
    if is_chain(module):
        names = [name for name, _ in children(module)]
        steps = [Step("input", "x"), *(Step("module", name, [i]) for i, name in enumerate(names))]
        return Flow(steps, [len(names)])
    try:
        with put_back(module):
            graph = _Tracer().trace(module)
    except Exception as error:  # a forward may raise anything for a proxy in place of a tensor
        raise Untraceable(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return _read(graph)


def _read(graph: torch.fx.Graph) -> Flow:
    flow = Flow()
    numbers: dict[torch.fx.Node, int] = {}
    for node in graph.nodes:
        inputs = [numbers[source] for source in node.all_input_nodes]
        if node.op.startswith("call_") and name_of(node.target) in LIKE:
            inputs = [numbers[source] for source in node.args[:1] if isinstance(source, torch.fx.Node)]
        if node.op == "output":
            flow.outputs = [numbers[leaf] for leaf in tree_leaves(node.args[0]) if isinstance(leaf, torch.fx.Node)]
            continue
        kind = {"placeholder": "input", "get_attr": "constant", "call_module": "module"}.get(node.op, "function")
        if kind == "input" and node.args and isinstance(node.args[0], int | float):
            kind = "constant"  # an argument whose default is a number: a scale, a flag
        name = node.target if kind == "module" else name_of(node.target)
        if name in RESHAPES:
            inputs = inputs[:1]  # the others are sizes, which may come from an argument of the forward
        step = Step(kind, name, inputs, tuple(node.args[1:]), line=node.meta.get("line", ""))
        is_element = step.name == "getitem" and type(step.arguments[0]) is int and len(inputs) == 1
        if is_element and flow.steps[inputs[0]].kind == "input":
            step = Step("input", f"{flow.steps[inputs[0]].name}[{step.arguments[0]}]")  # an element of a list
        elif is_element and flow.steps[inputs[0]].kind == "module":
            step.part = step.arguments[0]
        numbers[node] = len(flow.steps)
        flow.steps.append(step)
    return flow


def name_of(function: Any) -> str:
    name = function if isinstance(function, str) else getattr(function, "__name__", str(function))
    return str(name).strip("_")


def line_of_caller() -> str:
    """Return the nearest line of code that is neither torch's nor the finder's, as "package.module:line"."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(NOT_THE_NETWORKS):
        frame = frame.f_back
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_lineno}" if frame is not None else ""
