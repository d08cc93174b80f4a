"""Where a residual branch ends, found in the data flow of a block and not by its name."""

from dataclasses import dataclass

from torch import nn

from ._flow import ADDS, Flow
from ._modules import convolutions, is_chain, is_container, is_passing


@dataclass(frozen=True)
class End:
    """The module that a tensor comes from: `path` within the block; "" where it is none, and `reason` says why."""

    path: str = ""
    layout: str = ""  # "channels_last" where axes are turned behind the module
    notes: tuple[str, ...] = ()
    reason: str = ""


def branches(flow: Flow, block: nn.Module) -> list[End]:
    """The end of the branch of each residual add of a block, or why it was not taken."""
    found = []
    for step in flow.steps:
        if step.kind != "function" or step.name not in ADDS or len(set(step.inputs)) != 2:
            continue
        first, second = step.inputs[:2]
        branch = _branch(flow, block, first, second)
        if branch is None:
            continue
        found.append(branch if isinstance(branch, End) else end_of(flow, block, branch))
    return found


def _branch(flow: Flow, block: nn.Module, first: int, second: int) -> int | End | None:
    """The operand that is the branch: the one with more convolutions since the two parted."""
    own = flow.before(first) - flow.before(second), flow.before(second) - flow.before(first)
    counts = [sum(_convolutions(flow, block, number) for number in steps) for steps in own]
    if counts == [0, 0]:
        return None  # no residual branch of a convolutional network: a bias, positions, tokens
    if counts[0] == counts[1]:
        return End(reason=f"ambiguous add: {counts[0]} convolutions on either side")
    branch, shortcut = (first, second) if counts[0] > counts[1] else (second, first)
    origin = _before_passing(flow, block, shortcut)
    identity = origin in flow.before(branch) or flow.steps[origin].kind == "input"
    sliced = any(flow.steps[i].name == "getitem" for i in flow.before(shortcut) - flow.before(branch))
    # What is left are partial sums inside of a branch (Res2Net) or over branches (HRNet): of parts, not of a shortcut.
    return branch if identity or (min(counts) > 0 and not sliced) else None


def _before_passing(flow: Flow, block: nn.Module, number: int) -> int:
    while flow.steps[number].kind == "module" and len(flow.steps[number].inputs) == 1:
        module = block.get_submodule(flow.steps[number].name)
        if not is_passing(module) and not (is_chain(module) and not module._modules):
            break
        number = flow.steps[number].inputs[0]
    return number


def _convolutions(flow: Flow, block: nn.Module, number: int) -> int:
    step = flow.steps[number]
    if step.kind == "module":
        return convolutions(block.get_submodule(step.name))
    return int(step.kind == "function" and step.name.startswith("conv"))


def end_of(flow: Flow, block: nn.Module, number: int) -> End:
    """Step back from a tensor to the module that it comes from, over what leaves its values as they are."""
    layout = ""
    notes: list[str] = []
    while True:
        step = flow.steps[number]
        inputs = [i for i in step.inputs if any(flow.steps[j].kind == "input" for j in flow.before(i))]
        if step.kind == "module":
            module = block.get_submodule(step.name)
            if not is_passing(module):
                inner, turned = last_of(module)
                return End(f"{step.name}.{inner}" if inner else step.name, turned or layout, tuple(notes))
        elif step.kind == "function" and step.name in ("permute", "contiguous", "clone"):
            layout = _turned(step.arguments) or layout
        elif step.kind == "function" and step.name in ("mul", "mul_") and len(inputs) == 1:
            notes.append("before the layer scale")
        else:
            what = "the block's input" if step.kind == "input" else f"the function {step.name}"
            return End(reason=f"the branch ends in {what}, not in a module")
        if len(inputs) != 1:
            return End(reason=f"the branch ends in {step.name} of {len(inputs)} tensors")
        number = inputs[0]


def last_of(module: nn.Module) -> tuple[str, str]:
    """The path of the last module of a chain that computes something, and its layout; "" for what is no chain."""
    layout = ""
    if is_chain(module):
        for name, child in reversed(module._modules.items()):
            if child is None or is_passing(child):
                continue
            if type(child).__name__ == "Permute":
                layout = _turned(tuple(getattr(child, "dims", ()))) or layout
                continue
            inner, turned = last_of(child)
            return f"{name}.{inner}" if inner else name, turned or layout
    return "", layout


def _turned(arguments: tuple[object, ...]) -> str:
    """channels_last where a permutation brings the last axis to the front: what came before it had them last."""
    axes = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple | list) else arguments
    if isinstance(axes, tuple | list) and len(axes) > 2 and axes[1] in (len(axes) - 1, -1):
        return "channels_last"
    return ""


def may_hold_branches(module: nn.Module) -> bool:
    return convolutions(module) > 0 and not is_chain(module) and not is_container(module)
