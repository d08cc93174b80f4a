"""Small nnx networks of the patterns that surgery meets; in a module of their own, so that they can be pickled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def draw(key, shape, dtype, **_):
    """An initializer that JAX does not have to compile for each shape."""
    numbers = np.random.default_rng(int(np.prod(shape))).normal(0, np.prod(shape[:-1]) ** -0.5, shape)
    return jnp.asarray(numbers.astype(np.float32), dtype)


Conv = functools.partial(nnx.Conv, kernel_init=draw)
Linear = functools.partial(nnx.Linear, kernel_init=draw)


class Basic(nnx.Module):
    """ResNet's block of two convolutions, with a projection where the size changes."""

    def __init__(self, inputs, outputs, stride=1, *, rngs):
        self.conv1 = Conv(inputs, outputs, (3, 3), (stride, stride), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(outputs, rngs=rngs)
        self.conv2 = Conv(outputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(outputs, rngs=rngs)
        changes = inputs != outputs or stride != 1
        self.down = Conv(inputs, outputs, (1, 1), (stride, stride), rngs=rngs) if changes else None
        self.down_bn = nnx.BatchNorm(outputs, rngs=rngs) if changes else None

    def __call__(self, x):
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + (x if self.down is None else self.down_bn(self.down(x))))


class Bottleneck(nnx.Module):
    def __init__(self, inputs, outputs, stride=1, *, rngs):
        inner = outputs // 4
        self.conv1 = Conv(inputs, inner, (1, 1), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(inner, rngs=rngs)
        self.conv2 = Conv(inner, inner, (3, 3), (stride, stride), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(inner, rngs=rngs)
        self.conv3 = Conv(inner, outputs, (1, 1), use_bias=False, rngs=rngs)
        self.bn3 = nnx.BatchNorm(outputs, rngs=rngs)
        changes = inputs != outputs or stride != 1
        conv = Conv(inputs, outputs, (1, 1), (stride, stride), use_bias=False, rngs=rngs)
        self.downsample = nnx.Sequential(conv, nnx.BatchNorm(outputs, rngs=rngs)) if changes else None

    def __call__(self, x):
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return nnx.relu((x if self.downsample is None else self.downsample(x)) + y)


class ResNet(nnx.Module):
    """The stages in lists, as deep as `blocks` says."""

    def __init__(self, block=Basic, blocks=(2, 2), width=8, *, rngs):
        self.conv1 = Conv(3, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(width, rngs=rngs)
        self.layers = nnx.List([])
        for stage, number in enumerate(blocks):
            outputs = width * 2**stage * (4 if block is Bottleneck else 1)
            before = self.width if stage else width
            strides = [2 if stage else 1] + [1] * (number - 1)
            self.layers.append(
                nnx.List([block(before if i == 0 else outputs, outputs, s, rngs=rngs) for i, s in enumerate(strides)])
            )
            self.width = outputs
        self.fc = Linear(self.width, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn1(self.conv1(x)))
        for stage in self.layers:
            for block in stage:
                x = block(x)
        return self.fc(x.mean((1, 2)))


class SqueezeExcite(nnx.Module):
    def __init__(self, channels, *, rngs):
        self.reduce = Conv(channels, max(channels // 4, 1), (1, 1), rngs=rngs)
        self.expand = Conv(max(channels // 4, 1), channels, (1, 1), rngs=rngs)

    def __call__(self, x):
        gate = x.mean((1, 2), keepdims=True)
        return x * nnx.sigmoid(self.expand(nnx.silu(self.reduce(gate))))


class InvertedResidual(nnx.Module):
    """MobileNet's and EfficientNet's block: a skip only where the size stays."""

    def __init__(self, inputs, outputs, stride=1, drop=0.0, *, rngs):
        inner = 3 * inputs
        self.expand = Conv(inputs, inner, (1, 1), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(inner, rngs=rngs)
        self.depthwise = Conv(
            inner, inner, (3, 3), (stride, stride), feature_group_count=inner, use_bias=False, rngs=rngs
        )
        self.bn2 = nnx.BatchNorm(inner, rngs=rngs)
        self.se = SqueezeExcite(inner, rngs=rngs)
        self.project = Conv(inner, outputs, (1, 1), use_bias=False, rngs=rngs)
        self.bn3 = nnx.BatchNorm(outputs, rngs=rngs)
        self.drop = nnx.Dropout(drop, broadcast_dims=(1, 2, 3), rngs=rngs)
        self.skips = inputs == outputs and stride == 1

    def __call__(self, x):
        y = nnx.silu(self.bn1(self.expand(x)))
        y = self.se(nnx.silu(self.bn2(self.depthwise(y))))
        y = self.bn3(self.project(y))
        return x + self.drop(y) if self.skips else y


class MobileNet(nnx.Module):
    def __init__(self, *, rngs):
        self.stem = nnx.Sequential(
            Conv(3, 8, (3, 3), (2, 2), use_bias=False, rngs=rngs), nnx.BatchNorm(8, rngs=rngs), nnx.silu
        )
        sizes = [(8, 8, 1), (8, 8, 2), (8, 8, 1)]
        self.blocks = nnx.List([InvertedResidual(i, o, s, 0.2, rngs=rngs) for i, o, s in sizes])
        self.head = Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class ConvNeXtBlock(nnx.Module):
    def __init__(self, channels, *, rngs):
        self.depthwise = Conv(channels, channels, (7, 7), feature_group_count=channels, rngs=rngs)
        self.norm = nnx.LayerNorm(channels, rngs=rngs)
        self.up = Linear(channels, 4 * channels, rngs=rngs)
        self.down = Linear(4 * channels, channels, rngs=rngs)
        self.scale = nnx.Param(jnp.full((channels,), 1e-6))
        self.drop = nnx.Dropout(0.1, broadcast_dims=(1, 2, 3), rngs=rngs)

    def __call__(self, x):
        y = self.down(nnx.gelu(self.up(self.norm(self.depthwise(x)))))
        return x + self.drop(y * self.scale)


class ConvNeXt(nnx.Module):
    def __init__(self, channels=8, blocks=2, *, rngs):
        self.stem = Conv(3, channels, (4, 4), (4, 4), rngs=rngs)
        self.blocks = nnx.List([ConvNeXtBlock(channels, rngs=rngs) for _ in range(blocks)])
        self.head = Linear(channels, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class PreActivation(nnx.Module):
    """ResNet V2's blocks."""

    def __init__(self, channels=8, *, rngs):
        self.stem = Conv(3, channels, (3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(channels, rngs=rngs)
        self.conv1 = Conv(channels, channels, (3, 3), rngs=rngs)
        self.norm2 = nnx.BatchNorm(channels, rngs=rngs)
        self.conv2 = Conv(channels, channels, (3, 3), rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        y = self.conv1(nnx.relu(self.norm1(x)))
        return x + self.conv2(nnx.relu(self.norm2(y)))


class Rank(nnx.Module):
    """One residual block for sequences (rank 1) or volumes (rank 3)."""

    def __init__(self, rank, channels=8, *, rngs):
        self.stem = Conv(2, channels, (3,) * rank, rngs=rngs)
        self.conv = Conv(channels, channels, (3,) * rank, rngs=rngs)
        self.norm = nnx.GroupNorm(channels, num_groups=4, rngs=rngs)
        self.head = Linear(channels, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        x = nnx.relu(x + self.norm(self.conv(x)))
        return self.head(x.mean(tuple(range(1, x.ndim - 1))))


class Layer(nnx.Module):
    """A block that can be stacked: it keeps its shape."""

    def __init__(self, channels, rngs):
        self.conv = Conv(channels, channels, (3, 3), rngs=rngs)
        self.norm = nnx.LayerNorm(channels, rngs=rngs)

    def __call__(self, x):
        return x + self.norm(self.conv(nnx.relu(x)))


class Stacked(nnx.Module):
    """Blocks made under nnx.vmap and run by nnx.scan, as deep networks are to compile fast."""

    def __init__(self, channels=8, depth=3, *, rngs):
        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=(None, 0), out_axes=0)
        def build(channels, rngs):
            return Layer(channels, rngs)

        self.stem = Conv(3, channels, (3, 3), rngs=rngs)
        self.stack = build(channels, rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(block, x):
            return block(x)

        return run(self.stack, self.stem(x))


class Sequence(nnx.Module):
    """The network that the founding question asks about: two convolutions over (N, L, C), then a linear layer."""

    def __init__(self, length=8, classes=10, *, rngs):
        self.conv1 = Conv(8, 64, (3,), rngs=rngs)
        self.conv2 = Conv(64, 128, (3,), rngs=rngs)
        self.fc = Linear(length * 128, classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv1(x))
        x = nnx.relu(self.conv2(x))
        return self.fc(x.reshape(len(x), -1))


def filled(make, seed=0):
    """Build a network and give it numbers as a trained one has them: zeros and ones in norms hide mistakes.

    Nothing is computed by JAX, which would compile an operation for each shape. The attributes come back sorted.
    """
    rng = np.random.default_rng(seed)
    graphdef, state = nnx.split(nnx.eval_shape(make))

    def fill(path, variable):
        old = variable.get_value()
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            return variable.replace(jax.random.key(seed))
        if jnp.issubdtype(old.dtype, jnp.integer):
            return variable.replace(jnp.zeros(old.shape, old.dtype))
        name = path[-1]
        if name == "kernel":
            numbers = rng.normal(0, np.prod(old.shape[-4:-1]) ** -0.5, old.shape)
        elif name == "var":
            numbers = rng.uniform(0.5, 1.5, old.shape)
        else:
            numbers = rng.normal(float(name == "scale"), 0.3, old.shape)
        return variable.replace(jnp.asarray(numbers.astype(old.dtype)))

    return nnx.merge(graphdef, nnx.from_flat_state([(path, fill(path, v)) for path, v in nnx.to_flat_state(state)]))


def images(shape=(2, 32, 32, 3), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))
