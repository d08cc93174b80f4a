"""The data flow of modules, written down while the whole network runs: for forwards that torch.fx cannot trace."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from eca_multi.torch._private import tree_leaves

from .flow import ADDS, LIKE, Flow, Step, line_of_caller, name_of


class Recorder(TorchFunctionMode):
    """Writes down what the forwards of some modules do while the whole network runs.

    A module that a forward calls counts as one step, also one further down (an element of a list), so a stack keeps
    whose forward is running.

    Args:
        modules: By path, all modules of the network.
        names: The other paths of these modules.
        watched: The paths of the modules whose data flow is written down.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], names: Mapping[str, Sequence[str]], watched: Sequence[str]
    ) -> None:
        super().__init__()
        self.flows = {path: Flow(by_run=True) for path in watched}
        self._watched, self._names = modules, names
        self._running: list[tuple[str | None, dict[int, int]]] = []  # None: of a module that is not watched
        self._kept: list[Any] = []  # a tensor that was freed could give its id to another
        self._hooks: list[Any] = []

    def attach(self) -> None:
        for path, module in self._watched.items() if self.flows else ():
            self._hooks.append(
                module.register_forward_pre_hook(partial(self._enter, path), with_kwargs=True, prepend=True)
            )
            self._hooks.append(module.register_forward_hook(partial(self._leave, path), with_kwargs=True))

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._running.append((path if path in self.flows else None, {}))
        if path in self.flows:
            self.flows[path] = Flow(by_run=True)  # the last call counts
            for tensor in _tensors((args, kwargs)):
                self._add(tensor, Step("input", "x"))

    def _leave(self, path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if path in self.flows:
            self.flows[path].outputs = self._known(output)
        self._running.pop()
        name = self._name_in_running(path)
        if name:
            inputs = list(dict.fromkeys(self._known((args, kwargs))))
            is_one = isinstance(output, torch.Tensor)
            for i, tensor in enumerate(_tensors(output)):
                self._add(tensor, Step("module", name, inputs, part=None if is_one else i))

    def _name_in_running(self, path: str) -> str:
        """Return the path of a module within the one whose forward runs; "" if that is not written down."""
        above = self._running[-1][0] if self._running else None
        if above is None:
            return ""
        start = f"{above}." if above else ""
        return next((name.removeprefix(start) for name in self._names[path] if name.startswith(start)), "")

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._running or self._running[-1][0] is None:
            return function(*args, **kwargs)
        name = name_of(function)
        read = args[:1] if name in LIKE else (args, kwargs)
        inputs = list(dict.fromkeys(self._known(read)))  # before a step in place makes the tensor its own
        result = function(*args, **kwargs)
        line = line_of_caller() if name in ADDS else ""
        tensors = _tensors(args[0] if name == "setitem" else result)
        for i, tensor in enumerate(tensors):
            part = i if len(tensors) > 1 else None
            self._add(tensor, Step("function", name, inputs, tuple(args[1:]), part, line))
        return result

    def _known(self, values: Any) -> list[int]:
        known = self._running[-1][1]
        return [known[id(tensor)] for tensor in _tensors(values) if id(tensor) in known]

    def _add(self, tensor: torch.Tensor, step: Step) -> None:
        path, known = self._running[-1]
        if path is not None:
            flow = self.flows[path]
            self._kept.append(tensor)
            known[id(tensor)] = len(flow.steps)
            flow.steps.append(step)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
