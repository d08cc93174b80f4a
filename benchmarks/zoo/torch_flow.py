"""The operations that a torch network runs, told to a `Flow`."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.zoo.flow import ADD, MIX, MUL, NOTHING, OTHER, Add, Flow, Value
from benchmarks.zoo.torch_run import call, tensors

KINDS = {"mm": MIX, "bmm": MIX, "addmm": MIX, "baddbmm": MIX, "add": ADD, "add_": ADD, "mul": MUL, "mul_": MUL}
ATTENTION = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention")
KINDS |= dict.fromkeys(ATTENTION, MIX)
CONVOLUTIONS = ("convolution", "_slow_conv2d_forward", "mkldnn_convolution", "cudnn_convolution")
NOT_THE_NETWORKS = (f"{Path(torch.__file__).parent}/", __file__)


def adds_of(model: nn.Module, inputs: Any) -> list[Add]:
    """Return the residual adds of one run in evaluation mode, in the order in which they run."""
    was = [(module, module.training) for module in model.modules()]
    walk = _Walk(model, inputs)
    try:
        with torch.no_grad(), walk:
            call(model.eval(), inputs)
    finally:
        walk.close()
        for module, training in was:
            module.training = training
    return walk.flow.adds


class _Walk(TorchDispatchMode):
    """What a tensor depends on is kept by its memory, so that views and changes in place need no rules of their own."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.flow = Flow()
        self.at: dict[int, Value] = {_memory(tensor): Value(from_input=True) for tensor in tensors(inputs)}
        for path, module in model.named_modules():
            if type(module).__module__.startswith("eca_multi.") and hasattr(module, "kernel_size"):
                for kernel in module.parameters():
                    self.at[_memory(kernel)] = Value(opened=frozenset({path}))
        self.stack: list[str] = [""]
        self.hooks = []
        for path, module in model.named_modules():
            self.hooks.append(module.register_forward_pre_hook(self._entering(path)))
            self.hooks.append(module.register_forward_hook(self._leaving, always_call=True))

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _entering(self, path: str) -> Any:
        return lambda module, args: self.stack.append(path)

    def _leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = tensors([args, kwargs or {}])
        values = [self.at.get(_memory(tensor), NOTHING) for tensor in read]
        memories = {_memory(tensor) for tensor in read}
        shapes = [tuple(tensor.shape) for tensor in read]
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        is_convolution = name in CONVOLUTIONS
        kind = MIX if is_convolution else KINDS.get(name, OTHER)
        value = self.flow.step(kind, values, shapes=shapes, conv=is_convolution, place=self.stack[-1], line=_line(kind))
        for tensor in tensors(made):
            # Without a memory of its own the output is a view, or was changed in place.
            if kind == OTHER and _memory(tensor) in memories and not func._schema.is_mutable:
                continue
            self.at[_memory(tensor)] = value
        if func._schema.is_mutable and read and not tensors(made):
            self.at[_memory(read[0])] = value
        return made


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _line(kind: str) -> str:
    """Return the line of the network's code that adds; "" for other operations."""
    frame = sys._getframe(1) if kind == ADD else None
    while frame is not None and frame.f_code.co_filename.startswith(NOT_THE_NETWORKS):
        frame = frame.f_back
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_lineno}" if frame is not None else ""
