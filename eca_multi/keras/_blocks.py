"""The blocks of ECA-ResNet and ECA-MobileNetV2 for Keras 3; layers are named as the modules of the original code."""

from typing import Any

import keras
from keras import layers as L

from eca_multi.networks import Block, Conv

from .functional import Tensor
from .layers import ECA

CONVOLUTIONS = {1: L.Conv1D, 2: L.Conv2D}
DEPTHWISE_CONVOLUTIONS = {1: L.DepthwiseConv1D, 2: L.DepthwiseConv2D}
ZERO_PADDINGS = {1: L.ZeroPadding1D, 2: L.ZeroPadding2D}
MAX_POOLS = {1: L.MaxPooling1D, 2: L.MaxPooling2D}
AVERAGE_POOLS = {1: L.AveragePooling1D, 2: L.AveragePooling2D}
GLOBAL_POOLS = {
    ("avg", 1): L.GlobalAveragePooling1D,
    ("avg", 2): L.GlobalAveragePooling2D,
    ("max", 1): L.GlobalMaxPooling1D,
    ("max", 2): L.GlobalMaxPooling2D,
}
ACTIVATIONS: dict[str, float | None] = {"relu": None, "relu6": 6.0}  # the largest value


def layer_name(path: str) -> str:
    """Return the layer's name for a module path: "layer1.0.conv1" is `layer1_0_conv1`; no path has a "_" of its own."""
    return path.replace(".", "_")


def convolution(x: Tensor, conv: Conv, dims: int, **factory: Any) -> Tensor:
    """Apply a convolution as torchvision initialises it."""
    name, padding = layer_name(conv.path), "same"
    if conv.stride > 1 and conv.kernel > 1:  # "same" is not the same on both sides there
        x = ZERO_PADDINGS[dims](conv.kernel // 2, name=f"{name}_pad", **factory)(x)
        padding = "valid"
    initializer = keras.initializers.RandomNormal(stddev=(2 / (conv.outputs * conv.kernel**dims)) ** 0.5)
    options = {"strides": conv.stride, "padding": padding, "use_bias": False, "name": name, **factory}
    if conv.groups == conv.inputs > 1:
        return DEPTHWISE_CONVOLUTIONS[dims](conv.kernel, depthwise_initializer=initializer, **options)(x)
    layer = CONVOLUTIONS[dims](conv.outputs, conv.kernel, groups=conv.groups, kernel_initializer=initializer, **options)
    return layer(x)


def normalisation(x: Tensor, conv: Conv, *, data_format: str, **factory: Any) -> Tensor:
    axis = 1 if data_format == "channels_first" else -1
    layer = L.BatchNormalization(axis, momentum=0.9, epsilon=1e-5, name=layer_name(conv.norm), **factory)
    return layer(x)


def activate(x: Tensor, kind: str, path: str, *, dtype: Any, **_: Any) -> Tensor:
    return L.ReLU(ACTIVATIONS[kind], name=layer_name(path), dtype=dtype)(x)


def conv_norm_act(x: Tensor, conv: Conv, activation: str, dims: int, **factory: Any) -> Tensor:
    x = normalisation(convolution(x, conv, dims, **factory), conv, **factory)
    parent, _, number = conv.norm.rpartition(".")
    # The original code's modules: the activation follows its norm in a sequence, and is `relu` beside `bn1`.
    return activate(x, activation, f"{parent}.{int(number) + 1}" if parent else "relu", **factory)


def drop_path(x: Tensor, rate: float, path: str, *, dtype: Any, **_: Any) -> Tensor:
    """Stochastic depth: in training, skips a sample's branch with probability `rate` and scales the others."""
    if rate == 0:
        return x
    noise_shape = (None,) + (1,) * (len(x.shape) - 1)
    return L.Dropout(rate, noise_shape, name=f"{layer_name(path)}_drop_path", dtype=dtype)(x)


def residual_block(x: Tensor, block: Block, kernel_size: int, rate: float, dims: int, **factory: Any) -> Tensor:
    """A ResNet's block, basic or bottleneck: relu(shortcut(x) + eca(branch(x)))."""
    branch, shortcut = x, x
    for i, conv in enumerate(block.convs):
        branch = normalisation(convolution(branch, conv, dims, **factory), conv, **factory)
        if conv.activation:
            branch = activate(branch, "relu", f"{block.path}.relu{i + 1}", **factory)
    if block.shortcut is not None:
        if block.pool:  # "same": at an odd extent the last window averages fewer values
            name = f"{layer_name(block.path)}_downsample_pool"
            shortcut = AVERAGE_POOLS[dims](2, 2, "same", name=name, **factory)(shortcut)
        shortcut = normalisation(convolution(shortcut, block.shortcut, dims, **factory), block.shortcut, **factory)
    y = gated_sum(branch, shortcut, block, kernel_size, rate, **factory)
    return activate(y, "relu", f"{block.path}.relu", **factory)


def inverted_block(x: Tensor, block: Block, kernel_size: int, rate: float, dims: int, **factory: Any) -> Tensor:
    """A MobileNetV2's block: eca(branch(x)), added to x where the shapes allow it."""
    *inner, last = block.convs
    branch = x
    for conv in inner:
        branch = conv_norm_act(branch, conv, "relu6", dims, **factory)
    branch = normalisation(convolution(branch, last, dims, **factory), last, **factory)
    if not block.residual:
        return ECA(kernel_size, name=layer_name(block.eca), **factory)(branch)
    return gated_sum(branch, x, block, kernel_size, rate, **factory)


def gated_sum(branch: Tensor, shortcut: Tensor, block: Block, kernel_size: int, rate: float, **factory: Any) -> Tensor:
    """The end of a block in one pass: eca(branch) + shortcut; stochastic depth stands between the two."""
    eca = ECA(kernel_size, name=layer_name(block.eca), **factory)
    if rate == 0:
        return eca(branch, residual=shortcut)
    branch = drop_path(eca(branch), rate, block.path, **factory)
    return L.Add(name=f"{layer_name(block.path)}_add", dtype=factory["dtype"])([branch, shortcut])
