"""Squeeze-and-excitation blocks, found by what they compute: x times a gate made of x's global average."""

from torch import nn

from .classes import CONVS, is_container
from .flow import Flow

POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
POOL_NAMES = {"mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
PRODUCTS = {"mul", "imul"}


def is_squeeze(flow: Flow, module: nn.Module) -> bool:
    """Whether a module returns its input times a gate that two or more layers make of the input's global average."""
    if is_container(module) or len(flow.outputs) != 1:
        return False
    product = flow.steps[flow.outputs[0]]
    if product.kind != "function" or product.name not in PRODUCTS or len(product.inputs) != 2:
        return False
    for x, gate in (product.inputs, product.inputs[::-1]):
        chain = flow.before(gate) - {x}
        if flow.steps[x].kind == "input" and x in flow.before(gate) and any(_pools(flow, module, i) for i in chain):
            return len(_layers(module)) >= 2
    return False


def squeezed_channels(module: nn.Module) -> int | None:
    first = next(iter(_layers(module)), None)
    return None if first is None else int(getattr(first, "in_channels", 0) or getattr(first, "in_features", 0)) or None


def _pools(flow: Flow, module: nn.Module, number: int) -> bool:
    step = flow.steps[number]
    if step.kind == "module":
        return isinstance(module.get_submodule(step.name), POOLS)
    return step.kind == "function" and step.name in POOL_NAMES


def _layers(module: nn.Module) -> list[nn.Module]:
    """Return convolutions and linear layers over the channels; a convolution with one input channel is ECA's."""
    layers = [inner for inner in module.modules() if isinstance(inner, (*CONVS, nn.Linear))]
    return [layer for layer in layers if getattr(layer, "in_channels", 0) != 1]
