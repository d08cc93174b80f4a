"""Multiply-accumulates of a network, and the paper's "FLOPs" columns.

The paper's columns were printed by a counter of its time (thop) and are not multiply-accumulates: it counts four
operations per element of a normalisation, one per element of an activation (a module that is used twice, such as a
ResNet block's, only the last time), two per weight of a dense layer and one per element that ECA averages; and the sum
is divided by 2^30 (2^20 for MobileNetV2). That gives every printed digit of the rows of ResNet-50, -101, -152 and
MobileNetV2, with ECA and without. The rows of ResNet-18 and -34 come from another rule: they are 0.1 % lower, and
without activations they come out to the digit, but for 1.6999 that is printed as 1.699.
"""

from collections import Counter

from .catalogue import Network
from .kernels import KernelSizes, kernel_sizes
from .parts import Conv


def macs(network: Network, size: int = 224, *, num_classes: int = 1000, in_channels: int = 3, dims: int = 2) -> int:
    """Return the multiply-accumulates of convolutions and classifier for one input of `size` along every axis."""
    count = operations(network, size, num_classes=num_classes, in_channels=in_channels, dims=dims)
    return count["conv"] + count["dense"]


def published_operations(network: Network, size: int = 224, *, eca: bool = True, activations: bool = True) -> int:
    """Return the count of the paper's "FLOPs" column before the division; without `eca`, of the plain network."""
    count = operations(network, size)
    total = count["conv"] + 2 * count["dense"] + 4 * count["norm"]
    return total + activations * count["activation_modules"] + eca * count["eca_mean"]


def operations(
    network: Network,
    size: int = 224,
    kernels: KernelSizes = None,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    dims: int = 2,
) -> Counter[str]:
    """Count the operations of a forward pass of one input, `size` long along every spatial axis.

    Returns:
        "conv", "dense", "eca": Multiply-accumulates of the convolutions, the classifier and the ECA kernels (the
            zeros beyond the first and last channel included).
        "norm", "activation": Elements that come out of them. "activation_modules": the same where each module of
            the original code counts once.
        "eca_mean": Elements that ECA averages, which it then multiplies by the gate as well.
        "add": Residual additions.
    """
    count: Counter[str] = Counter()

    def conv(layer: Conv, extent: int, inputs: int) -> int:
        """Count a convolution and its normalisation; return the extent of its output."""
        extent = (extent - 1) // layer.stride + 1
        elements = layer.outputs * extent**dims
        count["conv"] += elements * (inputs // layer.groups) * layer.kernel**dims
        count["norm"] += elements
        count["activation"] += elements * layer.activation
        return extent

    extent, inputs = size, in_channels
    for layer in network.stem_convs:
        extent, inputs = conv(layer, extent, inputs), layer.outputs
    alone = count["activation"]
    if network.pool_stem:
        extent = (extent - 1) // 2 + 1
    for block, k in zip(network.blocks, kernel_sizes(network, kernels), strict=True):
        before = extent
        for layer in block.convs:
            extent = conv(layer, extent, layer.inputs)
        elements = block.outputs * extent**dims
        count["eca"] += block.outputs * k
        count["eca_mean"] += elements
        count["add"] += elements * block.residual
        count["activation"] += elements * network.activation_after_add
        alone += elements * network.activation_after_add
        if block.shortcut is not None:
            conv(block.shortcut, (before - 1) // 2 + 1 if block.pool else before, block.shortcut.inputs)
    for layer in network.head:
        extent = conv(layer, extent, layer.inputs)
    count["dense"] += network.width * num_classes
    count["activation_modules"] += alone if network.activation_after_add else count["activation"]
    return count
