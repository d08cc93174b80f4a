"""The data flow of one module's forward: its steps, with the modules that it calls as single steps.

Symbolic tracing (torch.fx) needs no input. Where it fails, a run with example inputs is written down instead.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ._modules import is_chain
from ._unchanged import put_back

ADDS = {"add", "add_", "iadd", "__add__", "__iadd__", "__radd__"}


@dataclass
class Step:
    """One step. `kind` is "input", "module" (`name` is the child's path in the module), "function" or "constant"."""

    kind: str
    name: str
    inputs: list[int] = field(default_factory=list)
    arguments: tuple[Any, ...] = ()


@dataclass
class Flow:
    """The steps of a forward in order, and those that it returns."""

    steps: list[Step] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    by_run: bool = False

    def users(self, number: int) -> list[int]:
        return [i for i, step in enumerate(self.steps) if number in step.inputs]

    def before(self, number: int) -> set[int]:
        """The step itself and all that it depends on."""
        seen: set[int] = set()
        todo = [number]
        while todo:
            i = todo.pop()
            if i not in seen:
                seen.add(i)
                todo += self.steps[i].inputs
        return seen

    def after(self, number: int) -> set[int]:
        """All steps that depend on a step."""
        seen = {number}
        for i, step in enumerate(self.steps):
            if seen & set(step.inputs):
                seen.add(i)
        return seen - {number}


class Untraceable(Exception):
    """A forward that symbolic tracing cannot follow."""


def flow_of(module: nn.Module) -> Flow:
    """Trace a module's forward one level deep.

    Raises:
        Untraceable: With the reason.
    """
    if is_chain(module):
        names = [name for name, child in module._modules.items() if child is not None]
        steps = [Step("input", "x"), *(Step("module", name, [i]) for i, name in enumerate(names))]
        return Flow(steps, [len(names)])
    tracer = torch.fx.Tracer()
    tracer.is_leaf_module = lambda *_: True  # type: ignore[method-assign]  # every child is one step
    try:
        with put_back(module):
            graph = tracer.trace(module)
    except Exception as error:  # whatever the forward does with what is no tensor
        raise Untraceable(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return _read(graph)


def _read(graph: torch.fx.Graph) -> Flow:
    flow = Flow()
    numbers: dict[torch.fx.Node, int] = {}
    for node in graph.nodes:
        inputs = [numbers[one] for one in node.all_input_nodes]
        if node.op == "output":
            flow.outputs = inputs
            continue
        kind = {"placeholder": "input", "get_attr": "constant", "call_module": "module"}.get(node.op, "function")
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        numbers[node] = len(flow.steps)
        flow.steps.append(Step(kind, name, inputs, tuple(node.args[1:])))
    return flow


class Recorder(TorchFunctionMode):
    """Writes down what the forward of some modules does while the whole network runs.

    Inside of a child everything is one step, so a stack says whose forward is running.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.flows = {path: Flow(by_run=True) for path in modules}
        self._modules = modules
        self._running: list[tuple[str, dict[int, int]]] = []
        self._kept: list[Any] = []  # so that no id is given twice
        self._hooks: list[Any] = []

    def attach(self) -> None:
        for path, module in self._modules.items():
            self._hooks.append(module.register_forward_pre_hook(self._enter(path), with_kwargs=True, prepend=True))
            for name, child in module.named_children():
                self._hooks.append(child.register_forward_pre_hook(self._into(path), with_kwargs=True, prepend=True))
                self._hooks.append(child.register_forward_hook(self._out(path, name), with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._leave(path)))

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.flows[path] = Flow(by_run=True)  # the last call counts
            self._running.append((path, {}))
            for tensor in _tensors((args, kwargs)):
                self._add(tensor, Step("input", "x"))

        return hook

    def _into(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._running and self._running[-1][0] == path:
                self._running.append(("", {}))  # nobody's: what the child does is its own

        return hook

    def _out(self, path: str, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if len(self._running) > 1 and self._running[-1][0] == "" and self._running[-2][0] == path:
                self._running.pop()
                inputs = self._known((args, kwargs))
                for tensor in _tensors(output):
                    self._add(tensor, Step("module", name, inputs))

        return hook

    def _leave(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.flows[path].outputs = self._known(output)
            self._running.pop()

        return hook

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._running or not self._running[-1][0]:
            return function(*args, **kwargs)
        inputs = self._known((args, kwargs))  # before an operation in place changes whose the tensor is
        result = function(*args, **kwargs)
        for tensor in _tensors(result):
            self._add(tensor, Step("function", function.__name__, inputs, tuple(args[1:])))
        return result

    def _known(self, values: Any) -> list[int]:
        known = self._running[-1][1]
        return list(dict.fromkeys(known[id(tensor)] for tensor in _tensors(values) if id(tensor) in known))

    def _add(self, tensor: torch.Tensor, step: Step) -> None:
        path, known = self._running[-1]
        flow = self.flows[path]
        self._kept.append(tensor)
        known[id(tensor)] = len(flow.steps)
        flow.steps.append(step)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [one for one in torch.utils._pytree.tree_leaves(values) if isinstance(one, torch.Tensor)]
