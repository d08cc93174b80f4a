"""The blocks of ECA-ResNet and ECA-MobileNetV2 for Flax nnx, with the module names of the original code."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from eca_multi.flax._network_weights import child
from eca_multi.networks import Block, Conv

from .layers import ECA

ACTIVATIONS: Mapping[str, Callable[[Any], jax.Array]] = {"relu": nnx.relu, "relu6": nnx.relu6}


def convolution(conv: Conv, dims: int, **factory: Any) -> nnx.Conv:
    """Return a convolution as torchvision initialises it."""
    half = conv.kernel // 2
    return nnx.Conv(
        conv.inputs,
        conv.outputs,
        (conv.kernel,) * dims,
        conv.stride,
        padding=((half, half),) * dims,
        feature_group_count=conv.groups,
        use_bias=False,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        **factory,
    )


def normalisation(conv: Conv, **factory: Any) -> nnx.BatchNorm:
    return nnx.BatchNorm(
        conv.outputs,
        momentum=0.9,
        epsilon=1e-5,
        use_fast_variance=False,  # E[x^2] - E[x]^2 cancels in float32
        **factory,
    )


def add_conv_norm(module: nnx.Module, conv: Conv, dims: int, parent: str = "", **factory: Any) -> None:
    """Give a module a convolution and its normalisation as attributes."""
    setattr(module, child(parent, conv.path), convolution(conv, dims, **factory))
    setattr(module, child(parent, conv.norm), normalisation(conv, **factory))


def conv_norm_act(module: nnx.Module, x: jax.Array, conv: Conv, activation: str, parent: str = "") -> jax.Array:
    x = getattr(module, child(parent, conv.path))(x)
    x = getattr(module, child(parent, conv.norm))(x)
    return ACTIVATIONS[activation](x) if conv.activation else x


class DropPath(nnx.Dropout):
    """Stochastic depth: in training, skips a sample's branch with probability `rate` and scales the others."""

    def __init__(self, rate: float, rank: int, rngs: nnx.Rngs) -> None:
        super().__init__(rate, broadcast_dims=tuple(range(1, rank)), rngs=rngs if rate else None)


def gated_sum(eca: nnx.Module, drop_path: nnx.Module, branch: jax.Array, shortcut: jax.Array) -> jax.Array:
    """Return drop_path(eca(branch)) + shortcut, in one pass where both are ours and nothing is dropped."""
    ours = type(eca) is ECA and type(drop_path) is DropPath
    if not ours or (drop_path.rate and not drop_path.deterministic):
        return drop_path(eca(branch)) + shortcut
    return eca(branch, residual=shortcut.astype(branch.dtype))


class ResidualBlock(nnx.Module):
    """A ResNet's block, basic or bottleneck: relu(shortcut(x) + eca(branch(x)))."""

    def __init__(self, block: Block, kernel_size: int, rate: float, dims: int, **factory: Any) -> None:
        self.block, self.dims = block, dims
        for conv in block.convs:
            add_conv_norm(self, conv, dims, block.path, **factory)
        self.eca = ECA(block.outputs, kernel_size, **factory)
        if block.shortcut is not None:
            add_conv_norm(self, block.shortcut, dims, block.path, **factory)
        self.drop_path = DropPath(rate, dims + 2, factory["rngs"])

    def __call__(self, x: jax.Array) -> jax.Array:
        block, dims = self.block, self.dims
        branch, shortcut = x, x
        for conv in block.convs:
            branch = conv_norm_act(self, branch, conv, "relu", block.path)
        if block.shortcut is not None:
            if block.pool:  # "SAME": at an odd extent the last window averages fewer values
                shortcut = nnx.avg_pool(shortcut, (2,) * dims, (2,) * dims, "SAME", count_include_pad=False)
            shortcut = conv_norm_act(self, shortcut, block.shortcut, "relu", block.path)
        return nnx.relu(gated_sum(self.eca, self.drop_path, branch, shortcut))


class InvertedBlock(nnx.Module):
    """A MobileNetV2's block: eca(branch(x)), added to x where the shapes allow it."""

    def __init__(self, block: Block, kernel_size: int, rate: float, dims: int, **factory: Any) -> None:
        self.block, self.dims = block, dims
        for conv in block.convs:
            add_conv_norm(self, conv, dims, block.path, **factory)
        setattr(self, child(block.path, block.eca), ECA(block.outputs, kernel_size, **factory))
        self.drop_path = DropPath(rate, dims + 2, factory["rngs"])

    def __call__(self, x: jax.Array) -> jax.Array:
        block = self.block
        branch = x
        for conv in block.convs:
            branch = conv_norm_act(self, branch, conv, "relu6", block.path)
        eca = getattr(self, child(block.path, block.eca))
        return gated_sum(eca, self.drop_path, branch, x) if block.residual else eca(branch)
