"""The data flow of modules, written down while the whole network runs: for forwards that torch.fx cannot trace."""

from collections.abc import Callable
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
        for path, module in self._watched.items():
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
                self._running.append(("", {}))  # no module's: the steps inside of the child do not count

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
