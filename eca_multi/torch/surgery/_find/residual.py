"""Where a residual branch ends: the module that makes a tensor, found in the data flow; names are not read."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from eca_multi.surgery.at_start import SCALED_TO_ZERO
from eca_multi.surgery.reasons import NO_MODULE, PARALLEL, POOLED

from .block import JOINS, PRODUCTS, Block
from .classes import is_chain, is_passing, is_pool
from .flow import ADDS, RESHAPES, Step
from .places import children
from .start import is_zero

SCALES = (*PRODUCTS, "truediv", "div", "divide")
DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
ACTIVATIONS = (
    "relu", "relu6", "gelu", "silu", "elu", "celu", "selu", "leaky_relu", "hardswish", "mish", "softplus", "prelu",
)  # fmt: skip
PIECE = "the add takes some of its channels"
PADDED = "channels of zeros join it before the add"
RESHAPED = "before a reshape"
CHANGED = {PIECE, PADDED, RESHAPED}  # the channels are others, or elsewhere, behind such a step


@dataclass(frozen=True)
class Source:
    """The module that a tensor comes from: its `path` within the block, or "" and the `reason` why there is none.

    `is_input`: the tensor is the block's input, as far as changed as `layout` and `notes` say.
    """

    path: str = ""
    layout: str = ""  # "channels_last" if axes are turned behind the module
    notes: tuple[str, ...] = ()
    reason: str = ""
    is_input: bool = False


def source_of(block: Block, number: int) -> Source:
    """Step back from a tensor to the module that makes the tensor, over steps that keep the values."""
    layout = ""
    notes: list[str] = []
    while True:
        step, inputs = block.step(number), block.inputs(number)
        module = block.of(number)
        if module is not None and not block.is_passing(number) and not is_passing(module):
            return _in_module(step, module, layout, tuple(notes))
        if step.kind == "input":
            return Source("", layout, tuple(notes), NO_MODULE.format("the block's input"), is_input=True)
        if step.kind == "function":
            if step.name in ADDS and len(inputs) == 2:
                return Source(reason=NO_MODULE.format("a sum") if not _is_sum_of_branches(block, number) else PARALLEL)
            if step.name in ("permute", "contiguous", "clone", "to"):
                if RESHAPED in notes and len(_axes(step.arguments)) > 4:
                    return Source(reason=NO_MODULE.format("a map put together from windows"))
                layout = _turned(step.arguments) or layout
            elif step.name in RESHAPES:
                layout = ""  # axes turned behind a reshape are not the module's
                notes.append(RESHAPED)
            elif step.name in SCALES and len(inputs) == 1:
                notes.append("before the layer scale")
                if _is_zero_constant(block, step):
                    notes.append(SCALED_TO_ZERO)
            elif step.name in PRODUCTS and len(factors := [i for i in inputs if not block.is_gate(i)]) == 1:
                notes.append("before another gate")
                inputs = factors
            elif step.name in ACTIVATIONS:
                notes.append("before an activation")
            elif block.is_piece(number):
                notes.append(PIECE)
            elif step.name in {"pad", *JOINS} and len(inputs) == 1:
                notes.append(PADDED)
            elif step.name not in DROPOUTS and not block.is_reshaped(number):
                several = f" of {len(inputs)} tensors" if len(inputs) > 1 else ""
                return Source(reason=NO_MODULE.format(f"the function {step.name}{several}"))
        if len(inputs) != 1:
            return Source(reason=NO_MODULE.format(f"{step.name} of {len(inputs)} tensors"))
        number = inputs[0]


def _is_zero_constant(block: Block, step: Step) -> bool:
    """Whether a product's other factor is a parameter of the block's own that is 0, reshaped or not."""
    factors = [i for i in step.inputs if i not in block.data]
    while len(factors) == 1 and block.step(factors[0]).kind == "function":
        factors = block.step(factors[0]).inputs
    if len(factors) != 1 or block.step(factors[0]).kind != "constant":
        return False
    return is_zero(getattr(block.module, block.step(factors[0]).name, None))


def _is_sum_of_branches(block: Block, number: int) -> bool:
    """Whether an add sums results of convolutions, neither of which is behind the other."""
    first, second = block.inputs(number)
    flow = block.flow
    since = flow.before(first) - flow.before(second), flow.before(second) - flow.before(first)
    return all(block.convolutions(steps) for steps in since)


def _in_module(step: Step, module: nn.Module, layout: str, notes: tuple[str, ...]) -> Source:
    if is_pool(module):
        return Source(reason=POOLED)
    if step.part is not None:
        return Source(reason=NO_MODULE.format(f"one of the tensors that {step.name} returns"))
    last, turned = last_of(module)
    return Source(f"{step.name}.{last}" if last else step.name, turned or layout, notes)


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
    axes = _axes(arguments)
    return "channels_last" if len(axes) > 2 and axes[1] in (len(axes) - 1, -1) else ""


def _axes(arguments: tuple[object, ...]) -> Sequence[object]:
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple | list) else arguments
