"""What a module is, by its class: the classes that surgery knows, their channels and their layout."""

import re

from torch import nn

from eca_multi.torch._private import NormBase

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
PASSING = {"Identity", "StochasticDepth", "DropPath"}  # by name: each library has its own class
KEEPING = {f"torch.nn.modules.{name}" for name in ("activation", "dropout", "padding", "pooling", "upsampling")}
CHANNEL_NAMES = ("out_channels", "num_features", "num_channels", "out_features")


def is_container(module: nn.Module) -> bool:
    """Whether a module is a list of modules: calling code reaches into the list by index."""
    return isinstance(module, CONTAINERS) and type(module).forward in {kind.forward for kind in CONTAINERS}


def is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def is_passing(module: nn.Module) -> bool:
    """Whether a module leaves the tensor as it is in evaluation; the gate goes before such a module."""
    return isinstance(module, DROPOUTS) or type(module).__name__ in PASSING


def convolutions(module: nn.Module) -> int:
    return sum(isinstance(inner, CONVS) for inner in module.modules())


def may_hold_branches(module: nn.Module) -> bool:
    return convolutions(module) > 0 and not is_chain(module) and not is_container(module)


def channels_of(module: nn.Module) -> int | None:
    """Return the number of channels that a module says itself; None if it says none, or not yet (a lazy one)."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return module.normalized_shape[-1]
    if isinstance(module, (*CONVS, *NORMS, nn.Linear)):
        return next((getattr(module, name) for name in CHANNEL_NAMES if getattr(module, name, 0)), None)
    return None


def keeps_channels(module: nn.Module) -> bool:
    """Whether a module of torch's own returns as many channels as it takes: activations, pools, dropouts and such."""
    kind = type(module)
    return kind.__module__ in KEEPING and kind.__name__ not in ("GLU", "MultiheadAttention")


def layout_of(module: nn.Module, channels: int | None, shape: tuple[int, ...] | None) -> str:
    """Return the layout that the run's shape decides; the one of the module's class if the shape does not decide."""
    # LayerNorm of torch is over the last axis; the LayerNorm2d of other libraries turns the axes itself.
    is_last_axis_norm = isinstance(module, nn.LayerNorm | nn.RMSNorm) and not re.search(
        r"[123]d$", type(module).__name__
    )
    last = is_last_axis_norm or isinstance(module, nn.Linear)
    if shape is not None and channels is not None and (shape[1] == channels) != (shape[-1] == channels):
        last = shape[-1] == channels
    return "channels_last" if last else "channels_first"


def rank_reason(module: nn.Module, shape: tuple[int, ...] | None, layout: str) -> str:
    """Return why a tensor has no channels to gate; "" if the tensor has channels."""
    rank = len(shape) if shape is not None else 2 if isinstance(module, nn.Linear) else None
    if rank is not None and rank < 3:
        return f"its output has rank {rank}: ECA averages over positions, of which there are none"
    if rank == 3 and layout == "channels_last":
        return "its output is (N, tokens, C): a sequence of tokens, not a feature map"
    return ""
