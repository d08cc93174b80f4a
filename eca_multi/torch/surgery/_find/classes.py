"""What a module is, by its class: the classes that surgery knows, their channels and their layout."""

import re

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from eca_multi.torch._private import NormBase

from .places import children

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
PASSING = re.compile(r"Identity|.*(StochasticDepth|DropPath|Dropout\d?d?)")  # by name: each library has its own class
POOLS = "torch.nn.modules.pooling"
UPSAMPLING = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Upsample, nn.PixelShuffle, nn.Fold)
KEEPING = {f"torch.nn.modules.{name}" for name in ("activation", "dropout", "padding", "pooling", "upsampling")}
CHANNEL_NAMES = ("out_channels", "num_features", "num_channels", "out_features")


def is_container(module: nn.Module) -> bool:
    """Whether a module is a list of modules: calling code reaches into the list by index."""
    return isinstance(module, CONTAINERS) and type(module).forward in {kind.forward for kind in CONTAINERS}


def is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def is_passing(module: nn.Module) -> bool:
    """Whether a module leaves the tensor as it is in evaluation; the gate goes before such a module."""
    return isinstance(module, DROPOUTS) or PASSING.fullmatch(type(module).__name__) is not None


def is_pool(module: nn.Module) -> bool:
    return any(kind.__module__ == POOLS and "Unpool" not in kind.__name__ for kind in type(module).__mro__)


def has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def is_scale(module: nn.Module) -> bool:
    """Whether a module has one number for each channel, or one alone, and is no norm: a layer scale, a PReLU."""
    own = list(module.parameters())
    return len(own) == 1 and own[0].numel() == max(own[0].shape, default=1) and not isinstance(module, NORMS)


def is_upsampling(module: nn.Module) -> bool:
    return isinstance(module, UPSAMPLING) or any("Unpool" in kind.__name__ for kind in type(module).__mro__)


def convolutions(module: nn.Module) -> int:
    return sum(map(_is_convolution, module.modules()))


def _is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution by its class; or a layer of an author's own, by the rank of its weight."""
    if isinstance(module, CONVS):
        return True
    if type(module).__module__.startswith("torch.") or children(module):
        return False
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or is_lazy(weight):
        return False
    return weight.ndim >= 3 and weight.numel() > max(weight.shape)  # not that of an ECA


def may_add(module: nn.Module) -> bool:
    """Whether a module has a forward of its author's own, which may add."""
    is_torchs = type(module).__module__.startswith("torch.nn.modules.") or isinstance(
        module, (*CONVS, *NORMS, nn.Linear)
    )
    return not is_torchs and not is_chain(module) and not is_container(module)


def axis_of(module: nn.Module) -> int | None:
    """Return 1 or -1, where a module of a known class has its channels; None for other modules."""
    for kind in (nn.Linear, nn.LayerNorm, nn.RMSNorm):
        if isinstance(module, kind):
            # A class of another library may turn the axes itself, as the LayerNorm2d of several do.
            is_turning = type(module).forward is not kind.forward
            return -1 if not is_turning else 1 if re.search(r"[123]d$", type(module).__name__) else None
    return 1 if isinstance(module, (*CONVS, *NORMS)) else None


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
