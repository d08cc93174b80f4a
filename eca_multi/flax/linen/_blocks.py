"""The blocks of ECA-ResNet and ECA-MobileNetV2 for Flax linen, with the module names of the original code."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from eca_multi.flax._network_weights import child
from eca_multi.networks import Block, Conv

from .layers import ECA

ACTIVATIONS: Mapping[str, Callable[[Any], jax.Array]] = {"relu": nn.relu, "relu6": nn.relu6}


def convolution(conv: Conv, dims: int, parent: str = "", **factory: Any) -> nn.Conv:
    """Return a convolution as torchvision initialises it."""
    half = conv.kernel // 2
    return nn.Conv(
        conv.outputs,
        (conv.kernel,) * dims,
        conv.stride,
        padding=((half, half),) * dims,
        feature_group_count=conv.groups,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        name=child(parent, conv.path),
        **factory,
    )


def normalisation(conv: Conv, train: bool, parent: str = "", **factory: Any) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        use_fast_variance=False,  # E[x^2] - E[x]^2 cancels in float32
        name=child(parent, conv.norm),
        **factory,
    )


def conv_norm_act(
    x: jax.Array, conv: Conv, activation: str, dims: int, train: bool, parent: str = "", **factory: Any
) -> jax.Array:
    x = convolution(conv, dims, parent, **factory)(x)
    x = normalisation(conv, train, parent, **factory)(x)
    return ACTIVATIONS[activation](x) if conv.activation else x


def drop_path(x: jax.Array, rate: float, train: bool) -> jax.Array:
    """Stochastic depth: in training, skips a sample's branch with probability `rate` and scales the others."""
    if rate == 0:
        return x
    return nn.Dropout(rate, broadcast_dims=tuple(range(1, x.ndim)), name="drop_path")(x, deterministic=not train)


def gated_sum(eca: ECA, branch: jax.Array, shortcut: jax.Array, rate: float, train: bool) -> jax.Array:
    """Return eca(branch) + shortcut, in one pass where no branch is dropped."""
    if rate and train:
        return drop_path(eca(branch), rate, train) + shortcut
    return eca(branch, residual=shortcut.astype(branch.dtype))


class ResidualBlock(nn.Module):
    """A ResNet's block, basic or bottleneck: relu(shortcut(x) + eca(branch(x)))."""

    block: Block
    kernel_size: int
    rate: float
    dims: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        block, dims = self.block, self.dims
        factory = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        branch, shortcut = x, x
        for conv in block.convs:
            branch = conv_norm_act(branch, conv, "relu", dims, train, block.path, **factory)
        if block.shortcut is not None:
            if block.pool:  # "SAME": at an odd extent the last window averages fewer values
                shortcut = nn.avg_pool(shortcut, (2,) * dims, (2,) * dims, "SAME", count_include_pad=False)
            shortcut = conv_norm_act(shortcut, block.shortcut, "relu", dims, train, block.path, **factory)
        eca = ECA(self.kernel_size, name=child(block.path, block.eca), **factory)
        return nn.relu(gated_sum(eca, branch, shortcut, self.rate, train))


class InvertedBlock(nn.Module):
    """A MobileNetV2's block: eca(branch(x)), added to x where the shapes allow it."""

    block: Block
    kernel_size: int
    rate: float
    dims: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        block, dims = self.block, self.dims
        factory = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        branch = x
        for conv in block.convs:
            branch = conv_norm_act(branch, conv, "relu6", dims, train, block.path, **factory)
        eca = ECA(self.kernel_size, name=child(block.path, block.eca), **factory)
        return gated_sum(eca, branch, x, self.rate, train) if block.residual else eca(branch)
