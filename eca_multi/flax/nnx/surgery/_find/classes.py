"""What a module is, by its class: the classes that surgery knows, their channels, layout and stacking without a run."""

import itertools
from collections.abc import Mapping
from typing import Any

from flax import nnx

from eca_multi.flax._run import Shape

CONVS = (nnx.Conv, nnx.ConvTranspose)
NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm, nnx.InstanceNorm, nnx.RMSNorm)


def static_channels(module: nnx.Module) -> int | None:
    """Return the number of channels of a module's output, as the module's constructor was told."""
    if isinstance(module, (*CONVS, nnx.Linear)):
        return module.out_features if isinstance(module.out_features, int) else None
    if not isinstance(module, NORMS):
        return None
    known = getattr(module, "num_features", None)  # GroupNorm does not keep it
    shapes = [variable.shape for variable in (module.scale, module.bias) if isinstance(variable, nnx.Variable)]
    return known or (shapes[0][-1] if shapes else None)


def static_layout(module: nnx.Module) -> str:
    """Return the layout, as the module's constructor was told; "" if the channels are neither first nor last."""
    axes = getattr(module, "axis", None) if isinstance(module, nnx.BatchNorm) else None
    if axes is None and isinstance(module, nnx.LayerNorm | nnx.RMSNorm):
        axes = module.feature_axes
    axes = (-1,) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
    return {(-1,): "channels_last", (1,): "channels_first"}.get(axes, "")


def static_stack(module: nnx.Module) -> Shape | None:
    """Return the leading axes of a stacked module's variables (made under nnx.vmap); None if other axes are stacked."""
    channels = static_channels(module)
    of_one: dict[str, Shape] = {}
    if isinstance(module, CONVS):
        of_one = {"kernel": tuple(module.kernel_shape), "bias": (channels or 0,)}
    elif isinstance(module, nnx.Linear):
        of_one = {"kernel": (module.in_features, channels or 0), "bias": (channels or 0,)}
    elif isinstance(module, NORMS) and static_layout(module):
        of_one = dict.fromkeys(("scale", "bias", "mean", "var"), (channels or 0,))
    return common_stack(module, of_one)


def common_stack(module: nnx.Module, used: Mapping[str, Shape]) -> Shape | None:
    """Return the axes that all variables of a module have before those of one block; None if one has other axes.

    `used` holds the shapes of one block's variables, by their dotted path from the module.
    """
    stacks = set()
    for path, shape in used.items():
        variable = _variable(module, path)
        if variable is not None:
            extra = len(variable.shape) - len(shape)
            stacks.add(variable.shape[:extra] if extra >= 0 and variable.shape[extra:] == shape else None)
    return stacks.pop() if len(stacks) == 1 else () if not stacks else None


def _variable(module: Any, path: str) -> nnx.Variable | None:
    for key in path.split("."):
        items = module.items() if isinstance(module, Mapping) else vars(module).items()
        children = itertools.chain(nnx.iter_children(module), items)
        module = next((child for name, child in children if str(name) == key), None)
    return module if isinstance(module, nnx.Variable) else None
