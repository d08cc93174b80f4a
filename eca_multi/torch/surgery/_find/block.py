"""A module whose forward may hold residual adds: its data flow, and what each step does to a tensor."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from .classes import convolutions, is_chain, is_passing, is_pool, is_upsampling
from .flow import Flow, Step

PIECES = {"split", "chunk", "unbind", "tensor_split"}
PRODUCTS = {"mul", "imul", "rmul", "multiply"}
GATES = re.compile(r"(?i)(h(ard)?_?)?sigmoid|softmax|tanh")
JOINS = {"cat", "concat", "concatenate"}
CASTS = {"to", "type", "type_as", "float", "double", "half", "bfloat16"}
UPSAMPLING = {"interpolate", "upsample", "pixel_shuffle", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
# Functions behind which a tensor is still the same map, resized or without some of its parts.
RESHAPING = {
    "getitem", "pad", "repeat", "expand", "contiguous", "clone", "detach", "interpolate", "upsample", "narrow",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d", "boolean_dispatch", *PIECES,
    *CASTS,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Block:
    """A module's forward. `inner` returns the block of a module inside by its path, or None where that is unknown."""

    path: str
    module: nn.Module
    flow: Flow
    inner: Callable[[str], "Block | None"]

    @cached_property
    def data(self) -> set[int]:
        return self.flow.data()

    def step(self, number: int) -> Step:
        return self.flow.steps[number]

    def of(self, number: int) -> nn.Module | None:
        """The module that a step calls."""
        step = self.step(number)
        return self.module.get_submodule(step.name) if step.kind == "module" else None

    def inputs(self, number: int) -> list[int]:
        """The inputs of a step that hold numbers made of the block's input."""
        return [i for i in self.step(number).inputs if i in self.data]

    def convolutions(self, steps: Iterable[int]) -> int:
        return sum(self._convolutions(i) for i in steps)

    def _convolutions(self, number: int) -> int:
        module, step = self.of(number), self.step(number)
        if module is not None:
            return 0 if step.part else convolutions(module)  # one call that returns two tensors counts once
        return int(step.kind == "function" and step.name.startswith("conv"))

    def is_passing(self, number: int) -> bool:
        """Whether a step is a module that leaves its one input as it is in evaluation."""
        module = self.of(number)
        if module is None or len(self.inputs(number)) != 1:
            return False
        return is_passing(module) or (is_chain(module) and not any(module.children()))

    def before_passing(self, number: int) -> int:
        while self.is_passing(number):
            number = self.inputs(number)[0]
        return number

    def is_piece(self, number: int) -> bool:
        """Whether a step takes some of the channels, or one tensor of several."""
        step = self.step(number)
        if step.kind != "function" or step.name not in ("getitem", *PIECES):
            return self.is_part(number)
        index = step.arguments[0] if step.name == "getitem" and step.arguments else None
        return not (isinstance(index, tuple) and len(index) > 1 and index[1] in (slice(None), ...))

    def is_part(self, number: int) -> bool:
        """Whether a step is one of the tensors that a module returns, one whose own forward is unknown."""
        step = self.step(number)
        of_module = step.kind == "module" or any(self.step(i).kind == "module" for i in step.inputs)
        return step.part is not None and (step.kind == "module" or (step.name == "getitem" and of_module))

    def is_reshaped(self, number: int) -> bool:
        """Whether a step hands one map on: padded, pooled, resized, repeated, cut, or joined to constants."""
        step = self.step(number)
        if len(self.inputs(number)) != 1:
            return False
        module = self.of(number)
        if module is not None:
            return (
                self.is_passing(number) or is_pool(module) or type(module).__module__.startswith("torch.nn.modules.pad")
            )
        return step.kind == "function" and (step.name in RESHAPING | JOINS)

    def upsamples(self, number: int, since: Iterable[int]) -> bool:
        """Whether a map grows on its way through the steps of `since` to a step; gates on the way do not count.

        Maps that are joined have grown if each of them has: one that kept its size has the resolution of the shortcut.
        """
        grown = set[int]()
        for i in sorted(since):
            step, inputs = self.step(i), self.inputs(i)
            if step.name in PRODUCTS and len(inputs) == 2:
                inputs = [j for j in inputs if not self.is_gate(j)] or inputs
            together = all if step.name in JOINS and inputs else any
            if self._upsamples(i) or together(j in grown for j in inputs):
                grown.add(i)
        return number in grown

    def _upsamples(self, number: int) -> bool:
        step, module = self.step(number), self.of(number)
        if module is None:
            return step.kind == "function" and step.name in UPSAMPLING
        if is_upsampling(module):
            return True
        block = self.inner(step.name)
        return block is not None and any(block.upsamples(i, range(len(block.flow.steps))) for i in block.flow.outputs)

    def is_gate(self, number: int) -> bool:
        """Whether a tensor comes out of a sigmoid or its like, apart from a change of its size."""
        while self.is_reshaped(number) or self.step(number).name in ("view", "reshape", "unsqueeze", "expand_as"):
            if len(self.inputs(number)) != 1:
                return False
            number = self.inputs(number)[0]
        step, module = self.step(number), self.of(number)
        if step.kind == "function":
            return GATES.fullmatch(step.name) is not None
        if module is None:
            return False
        block = self.inner(step.name)
        return GATES.fullmatch(type(module).__name__) is not None or (
            block is not None and any(block.is_gate(i) for i in block.flow.outputs)
        )
