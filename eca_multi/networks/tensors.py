"""All tensors of a network: names, kinds and shapes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple

from .catalogue import Network
from .kernels import KernelSizes, kernel_sizes
from .parts import Conv

PARAMETERS = ("conv", "depthwise", "norm_scale", "norm_bias", "dense", "dense_bias", "eca")
STATISTICS = ("norm_mean", "norm_var")


class Tensor(NamedTuple):
    """A canonical tensor. Kernels are in torch's layout: a convolution's (O, I / groups, *S), a dense one's (out, in),
    an ECA's (k,). `module` is the path of what holds it."""

    kind: str
    shape: tuple[int, ...]
    module: str


def tensors(
    network: Network,
    kernels: KernelSizes = None,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    dims: int = 2,
    features_only: bool = False,
) -> dict[str, Tensor]:
    """Return the canonical tensors by name, in the network's own order.

    Args:
        network: One of NETWORKS.
        kernels: As in `kernel_sizes`.
        num_classes: 0 leaves the classifier out.
        in_channels, dims: Of the input (N, C, *S).
        features_only: Whether the head and the classifier are left out.
    """
    return dict(_walk(network, kernel_sizes(network, kernels), num_classes, in_channels, dims, features_only))


def _walk(
    network: Network, sizes: Sequence[int], num_classes: int, in_channels: int, dims: int, features_only: bool
) -> Iterator[tuple[str, Tensor]]:
    for conv in stem_of(network, in_channels):
        yield from _conv(conv, dims)
    for block, size in zip(network.blocks, sizes, strict=True):
        for conv in block.convs:
            yield from _conv(conv, dims)
        yield f"{block.eca}.weight", Tensor("eca", (size,), block.eca)
        if block.shortcut is not None:
            yield from _conv(block.shortcut, dims)
    if features_only:
        return
    for conv in network.head:
        yield from _conv(conv, dims)
    if num_classes:
        name = network.classifier
        yield f"{name}.weight", Tensor("dense", (num_classes, network.width), name)
        yield f"{name}.bias", Tensor("dense_bias", (num_classes,), name)


def _conv(conv: Conv, dims: int) -> Iterator[tuple[str, Tensor]]:
    kind = "depthwise" if conv.groups == conv.inputs > 1 else "conv"
    shape = (conv.outputs, conv.inputs // conv.groups, *[conv.kernel] * dims)
    yield f"{conv.path}.weight", Tensor(kind, shape, conv.path)
    names = {"weight": "norm_scale", "bias": "norm_bias", "running_mean": "norm_mean", "running_var": "norm_var"}
    for name, kind in names.items():
        yield f"{conv.norm}.{name}", Tensor(kind, (conv.outputs,), conv.norm)


def stem_of(network: Network, in_channels: int) -> list[Conv]:
    """Return the convolutions of a stem for an input of `in_channels`."""
    first, *rest = network.stem_convs
    return [replace(first, inputs=in_channels), *rest]


def count_parameters(listed: dict[str, Tensor], *kinds: str) -> int:
    """Return the number of parameters (of these kinds); running statistics are none."""
    return sum(prod(tensor.shape) for tensor in listed.values() if tensor.kind in (kinds or PARAMETERS))
