"""Whether a gradient reaches the kernel of an ECA behind a module, as far as the module's own weights tell."""

from typing import Any

import torch
from torch import nn

from eca_multi.surgery.at_start import start_notes

from .classes import CONVS, NORMS
from .places import children

INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def notes_at_start(module: nn.Module) -> tuple[str, ...]:
    """Return the notes for a norm, a convolution, a linear layer or a layer scale; none for other modules."""
    own = dict(module.named_parameters(recurse=False))
    if isinstance(module, (*CONVS, *NORMS, nn.Linear)):
        # A parametrized weight is no parameter of the module's own, and its values are not looked at.
        scale = is_zero(own["weight"]) if "weight" in own else None
        bias = is_zero(own["bias"]) if "bias" in own else None
        return start_notes(scale, bias, is_instance_norm=_is_instance_norm(module))
    is_layer_scale = "scale" in type(module).__name__.lower() and len(own) == 1 and not children(module)
    return start_notes(is_zero(next(iter(own.values()))), None) if is_layer_scale else ()


def is_zero(tensor: Any) -> bool:
    """Whether a parameter holds zeros alone; False for one without values, as on the meta device, and for others."""
    if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.is_meta:
        return False
    return tensor.numel() > 0 and not bool(tensor.detach().any())


def _is_instance_norm(module: nn.Module) -> bool:
    """Also a group norm with a group for each channel."""
    return isinstance(module, INSTANCE_NORMS) or (
        isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels
    )
