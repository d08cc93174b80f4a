"""Whether a gradient reaches the kernel of an ECA behind a Flax layer, as far as the layer's own weights tell."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from eca_multi.surgery.at_start import start_notes


def notes_at_start(weights: Mapping[str, Any], *, has_bias: bool, is_instance_norm: bool) -> tuple[str, ...]:
    """Return the notes for a norm, a convolution or a layer scale.

    Args:
        weights: Its arrays by name: "scale" or "kernel", and "bias"; an array that is not there, or shapes in place of
            values, tell nothing. Of a layer scale, its one array under any name.
        has_bias: Whether the layer has a bias, also where `weights` lacks it.
        is_instance_norm: As in `start_notes`.
    """
    scales = [name for name in weights if name != "bias"]
    scale = is_zero(weights[scales[0]]) if scales else None
    bias = is_zero(weights["bias"]) if "bias" in weights else False if has_bias else None
    return start_notes(scale, bias, is_instance_norm=is_instance_norm)


def is_layer_scale(kind: str, weights: Mapping[str, Any]) -> bool:
    """Whether a module does nothing but multiply by its one parameter, by the name of its class."""
    return "scale" in kind.lower() and len(weights) == 1


def is_zero(array: Any) -> bool:
    """Whether an array holds zeros alone; False where this process does not have its values."""
    if isinstance(array, jax.Array):
        if isinstance(array, jax.core.Tracer) or array.is_deleted() or not array.is_fully_addressable:
            return False
    elif not isinstance(array, np.ndarray):
        return False
    return array.size > 0 and not np.asarray(array).any()


def is_instance_norm(module: Any, channels: int | None, kind: type) -> bool:
    """Whether a norm is of the class `kind`, or a group norm with a group for each channel."""
    if isinstance(module, kind):
        return True
    if type(module).__name__ != "GroupNorm":
        return False
    return module.group_size == 1 or (module.num_groups is not None and module.num_groups == channels)
