"""What an operation of a Keras graph is: convolution, norm, dropout, a model, ..."""

from typing import Any

import keras
from keras import layers as L

from eca_multi.keras._private import layers_in
from eca_multi.keras.layers import ECA

DEPTHWISE = (L.DepthwiseConv1D, L.DepthwiseConv2D)
CONVS = (
    *(L.Conv1D, L.Conv2D, L.Conv3D, L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose),
    *(L.SeparableConv1D, L.SeparableConv2D, *DEPTHWISE),
)
DENSE = (L.Dense, L.EinsumDense)
# Layers of sequences (N, T, C), whatever `keras.config.image_data_format()` is.
SEQUENCES = (L.Embedding, L.RNN, L.Bidirectional, L.MultiHeadAttention, L.GroupQueryAttention)
NORMS = (L.BatchNormalization, L.LayerNormalization, L.GroupNormalization, L.RMSNormalization)
# A gate belongs in front of these, or has the same effect there as behind them. Some are no classes of Keras itself.
PASSING = {
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout", "GaussianDropout"),
    *("GaussianNoise", "Identity", "StochasticDepth", "DropPath"),
}
# Layers that keep the number of channels and the rank, for a Sequential that is not built.
KEEPS_CHANNELS = ("Pooling", "Padding", "UpSampling", "Cropping", "Dropout", "Activation", "ReLU", "Normalization")


def kind(operation: Any) -> str:
    """Return the class name, as a plan shows it."""
    return type(operation).__name__


def is_conv(operation: Any) -> bool:
    return isinstance(operation, CONVS)


def is_norm(operation: Any) -> bool:
    return isinstance(operation, NORMS)


def is_add(operation: Any) -> bool:
    """Of keras.layers, or of keras.ops for `a + b`; an Average is the half of an Add."""
    return kind(operation) == "Add" or type(operation) is L.Average


def is_pooling(operation: Any) -> bool:
    return "Pooling" in kind(operation)


def enlarges(operation: Any) -> bool:
    """Whether the map that an operation returns has a higher resolution than the map that it gets."""
    is_transposed = is_conv(operation) and "Transpose" in kind(operation)
    return is_transposed or kind(operation).startswith(("UpSampling", "Resiz"))


def is_product(operation: Any) -> bool:
    """Of keras.layers, or of keras.ops for `a * b`."""
    return kind(operation) == "Multiply"


def is_global_mean(operation: Any) -> bool:
    """keras.layers.GlobalAveragePooling of any rank, or keras.ops.mean."""
    return kind(operation).startswith("GlobalAveragePooling") or kind(operation) == "Mean"


def is_eca(operation: Any) -> bool:
    return isinstance(operation, ECA)


def is_input(operation: Any) -> bool:
    return isinstance(operation, keras.layers.InputLayer)


def is_passing(operation: Any) -> bool:
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    return kind(operation) in PASSING


def is_model(operation: Any) -> bool:
    return isinstance(operation, keras.Model)


def is_container(operation: Any) -> bool:
    """A model whose graph or list of layers can be read."""
    return is_model(operation) and isinstance(operation, keras.Function | keras.Sequential)


def model_in(operation: Any) -> Any:
    """Return the model whose graph an operation runs: itself, or the one that TimeDistributed runs for each frame."""
    inner = operation.layer if type(operation) is keras.layers.TimeDistributed else operation
    return inner if is_container(inner) else None


def is_opaque(operation: Any) -> bool:
    """A layer whose inner layers the graph does not show."""
    return model_in(operation) is None and not is_model(operation) and len(parts(operation)) > 1


def parts(operation: Any) -> list[Any]:
    """Return a layer and the layers inside; nothing for an operation of keras.ops."""
    return layers_in(operation) if isinstance(operation, keras.Layer) else []


def weighted(operation: Any, also_dense: bool = True) -> int:
    """Count the convolutions (and dense layers) in an operation, those inside included."""
    kinds = (*CONVS, *DENSE) if also_dense else CONVS
    return sum(isinstance(part, kinds) for part in parts(operation))


def layout_of(operation: Any, rank: int) -> str:
    """Return the layout that an operation's arguments say, or ""."""
    data_format = getattr(operation, "data_format", None)
    if data_format in ("channels_first", "channels_last"):
        return str(data_format)
    if isinstance(operation, (*DENSE, *SEQUENCES)):
        return "channels_last"
    axis = getattr(operation, "axis", None) if is_norm(operation) else None
    if isinstance(axis, list | tuple):
        axis = axis[0] if len(axis) == 1 else None
    if axis in (-1, rank - 1):
        return "channels_last"
    return "channels_first" if axis == 1 else ""
