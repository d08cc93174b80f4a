"""Where a residual branch ends, found in the data flow of a block; names are not read."""

from dataclasses import dataclass

from torch import nn

from .classes import convolutions, is_chain, is_passing
from .flow import Flow
from .places import children

ADDS = {"add", "add_", "iadd", "__add__", "__iadd__", "__radd__"}


@dataclass(frozen=True)
class Source:
    """The module that a tensor comes from: its `path` within the block, or "" and the `reason` why there is none."""

    path: str = ""
    layout: str = ""  # "channels_last" if axes are turned behind the module
    notes: tuple[str, ...] = ()
    reason: str = ""


def branches(flow: Flow, block: nn.Module) -> list[Source]:
    """Return where the branch of each residual add of a block ends, or why the add has no branch to take."""
    sources = []
    for step in flow.steps:
        if step.kind != "function" or step.name not in ADDS or len(set(step.inputs)) != 2:
            continue
        branch = _branch(flow, block, *step.inputs[:2])
        if branch is not None:
            sources.append(branch if isinstance(branch, Source) else source_of(flow, block, branch))
    return sources


def _branch(flow: Flow, block: nn.Module, first: int, second: int) -> int | Source | None:
    """Return the operand that is the branch: the one with more convolutions since the two operands parted."""
    since = flow.before(first) - flow.before(second), flow.before(second) - flow.before(first)
    counts = [sum(_convolutions(flow, block, number) for number in steps) for steps in since]
    if counts == [0, 0]:
        return None  # no residual branch of a convolutional network: a bias, positions, tokens
    if counts[0] == counts[1]:
        return Source(reason=f"ambiguous add: {counts[0]} convolutions on either side")
    branch, shortcut = (first, second) if counts[0] > counts[1] else (second, first)
    origin = _before_passing(flow, block, shortcut)
    identity = origin in flow.before(branch) or flow.steps[origin].kind == "input"
    sliced = any(flow.steps[i].name == "getitem" for i in flow.before(shortcut) - flow.before(branch))
    # All other adds are partial sums, inside of a branch (Res2Net) or over branches (HRNet), and have no shortcut.
    return branch if identity or (min(counts) > 0 and not sliced) else None


def _before_passing(flow: Flow, block: nn.Module, number: int) -> int:
    while flow.steps[number].kind == "module" and len(flow.steps[number].inputs) == 1:
        module = block.get_submodule(flow.steps[number].name)
        if not is_passing(module) and not (is_chain(module) and not any(module.children())):
            break
        number = flow.steps[number].inputs[0]
    return number


def _convolutions(flow: Flow, block: nn.Module, number: int) -> int:
    step = flow.steps[number]
    if step.kind == "module":
        return convolutions(block.get_submodule(step.name))
    return int(step.kind == "function" and step.name.startswith("conv"))


def source_of(flow: Flow, block: nn.Module, number: int) -> Source:
    """Step back from a tensor to the module that makes the tensor, over steps that keep the values."""
    layout = ""
    notes: list[str] = []
    while True:
        step = flow.steps[number]
        inputs = [i for i in step.inputs if any(flow.steps[j].kind == "input" for j in flow.before(i))]
        if step.kind == "module":
            module = block.get_submodule(step.name)
            if not is_passing(module):
                inner, turned = last_of(module)
                return Source(f"{step.name}.{inner}" if inner else step.name, turned or layout, tuple(notes))
        elif step.kind == "function" and step.name in ("permute", "contiguous", "clone"):
            layout = _turned(step.arguments) or layout
        elif step.kind == "function" and step.name in ("mul", "mul_") and len(inputs) == 1:
            notes.append("before the layer scale")
        else:
            what = "the block's input" if step.kind == "input" else f"the function {step.name}"
            return Source(reason=f"the branch ends in {what}, not in a module")
        if len(inputs) != 1:
            return Source(reason=f"the branch ends in {step.name} of {len(inputs)} tensors")
        number = inputs[0]


def last_of(module: nn.Module) -> tuple[str, str]:
    """Return the path and layout of the last module in a chain that computes something; "" if `module` is no chain."""
    layout = ""
    if is_chain(module):
        for name, child in reversed(children(module)):
            if is_passing(child):
                continue
            if type(child).__name__ == "Permute":
                layout = _turned(tuple(getattr(child, "dims", ()))) or layout
                continue
            inner, turned = last_of(child)
            return f"{name}.{inner}" if inner else name, turned or layout
    return "", layout


def _turned(arguments: tuple[object, ...]) -> str:
    """Return channels_last if a permutation brings the last axis to the front: the channels were last before."""
    axes = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple | list) else arguments
    if isinstance(axes, tuple | list) and len(axes) > 2 and axes[1] in (len(axes) - 1, -1):
        return "channels_last"
    return ""
