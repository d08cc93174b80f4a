"""The data flow of modules, written down while the whole network runs: for forwards that torch.fx cannot trace."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from eca_multi.torch._private import tree_leaves

from .flow import Flow, Step


class Recorder(TorchFunctionMode):
    """Writes down what the forwards of some modules do while the whole network runs.

    A child counts as one step, so a stack keeps whose forward is running.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.flows = {path: Flow(by_run=True) for path in modules}
        self._watched = modules
        self._running: list[tuple[str, dict[int, int]]] = []
        self._kept: list[Any] = []  # a tensor that was freed could give its id to another
        self._hooks: list[Any] = []

    def attach(self) -> None:
        before: dict[str, Any] = {"with_kwargs": True, "prepend": True}
        for path, module in self._watched.items():
            self._hooks.append(module.register_forward_pre_hook(partial(self._enter, path), **before))
            for name, child in module.named_children():
                self._hooks.append(child.register_forward_pre_hook(partial(self._into, path), **before))
                self._hooks.append(child.register_forward_hook(partial(self._out, path, name), with_kwargs=True))
            self._hooks.append(module.register_forward_hook(partial(self._leave, path)))

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.flows[path] = Flow(by_run=True)  # the last call counts
        self._running.append((path, {}))
        for tensor in _tensors((args, kwargs)):
            self._add(tensor, Step("input", "x"))

    def _into(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._running and self._running[-1][0] == path:
            self._running.append(("", {}))  # no module's: the steps inside of the child do not count

    def _out(self, path: str, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if len(self._running) > 1 and self._running[-1][0] == "" and self._running[-2][0] == path:
            self._running.pop()
            inputs = self._known((args, kwargs))
            for tensor in _tensors(output):
                self._add(tensor, Step("module", name, inputs))

    def _leave(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        self.flows[path].outputs = self._known(output)
        self._running.pop()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._running or not self._running[-1][0]:
            return function(*args, **kwargs)
        inputs = self._known((args, kwargs))  # before an operation in place gives the tensor to another step
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
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
