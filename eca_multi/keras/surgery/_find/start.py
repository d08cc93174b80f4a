"""Whether a gradient reaches the kernel of an ECA behind a layer, as far as the layer's own weights tell."""

from typing import Any

import keras
import numpy as np

from eca_multi.surgery.at_start import start_notes

from .kinds import DENSE, is_conv, is_norm, kind

SCALES = ("gamma", "scale", "kernel", "depthwise_kernel", "pointwise_kernel")
BIASES = ("beta", "bias")


def notes_at_start(operation: Any) -> tuple[str, ...]:
    """Return the notes for a norm, a linear convolution or dense layer, or a layer scale; none for other layers."""
    is_linear = (is_conv(operation) or isinstance(operation, DENSE)) and (
        operation.activation is keras.activations.linear
    )
    if not (is_linear or is_norm(operation) or kind(operation) == "LayerScale"):
        return ()
    own = {variable.name: variable for variable in operation.weights}
    scales = [is_zero(own[name]) for name in SCALES if name in own]
    biases = [is_zero(own[name]) for name in BIASES if name in own]
    # A layer that is not built has no weights, and says by its arguments whether it will have a bias.
    will_have_bias = getattr(operation, "center", getattr(operation, "use_bias", False))
    bias = biases[0] if biases else False if will_have_bias else None
    return start_notes(any(scales) if scales else None, bias, is_instance_norm=_is_instance_norm(operation, own))


def is_zero(variable: Any) -> bool:
    values = np.asarray(keras.ops.convert_to_numpy(variable))
    return values.size > 0 and not values.flat[0] and not values.any()


def _is_instance_norm(operation: Any, own: dict[str, Any]) -> bool:
    """A group norm with a group for each channel."""
    if not isinstance(operation, keras.layers.GroupNormalization):
        return False
    sizes = [int(variable.shape[0]) for variable in own.values()]
    return operation.groups == -1 or (bool(sizes) and operation.groups == sizes[0])
