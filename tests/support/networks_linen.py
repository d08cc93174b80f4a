"""Linen networks in miniature, one for each pattern that surgery meets, with weights as after training."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import core
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_multi.flax import linen as own
from eca_multi.flax.linen import insert_eca


class Basic(nn.Module):
    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train=False):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        strides = (self.stride, self.stride)
        y = nn.relu(norm()(nn.Conv(self.features, (3, 3), strides, use_bias=False)(x)))
        y = norm(scale_init=nn.initializers.zeros)(nn.Conv(self.features, (3, 3), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm(name="norm_proj")(nn.Conv(self.features, (1, 1), strides, use_bias=False, name="conv_proj")(x))
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train=False):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        strides = (self.stride, self.stride)
        y = nn.relu(norm()(nn.Conv(self.features, (1, 1), use_bias=False)(x)))
        y = nn.relu(norm()(nn.Conv(self.features, (3, 3), strides, use_bias=False)(y)))
        y = norm(scale_init=nn.initializers.zeros)(nn.Conv(4 * self.features, (1, 1), use_bias=False)(y))
        if x.shape != y.shape:
            x = nn.Conv(4 * self.features, (1, 1), strides, use_bias=False, name="conv_proj")(x)
            x = norm(name="norm_proj")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """With compact methods."""

    block: Any = Basic
    sizes: Sequence[int] = (1, 2)
    width: int = 8

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(10, name="head")(self.features(x, train))

    def features(self, x, train=False):
        x = nn.Conv(self.width, (3, 3), use_bias=False, name="conv_init")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm_init")(x))
        for i, size in enumerate(self.sizes):
            for j in range(size):
                stride = 2 if i > 0 and j == 0 else 1
                x = self.block(self.width * 2**i, stride, name=f"layer{i + 1}_{j}")(x, train)
        return x.mean((1, 2))


class SetupBlock(nn.Module):
    features: int

    def setup(self):
        self.conv1 = nn.Conv(self.features, (3, 3), use_bias=False)
        self.bn1 = nn.BatchNorm()
        self.conv2 = nn.Conv(self.features, (3, 3), use_bias=False)
        self.bn2 = nn.BatchNorm()

    def __call__(self, x, train=False):
        y = nn.relu(self.bn1(self.conv1(x), use_running_average=not train))
        return nn.relu(x + self.bn2(self.conv2(y), use_running_average=not train))


class SetupNet(nn.Module):
    """With setup methods, lists of blocks, and a block that is called twice."""

    width: int = 8

    def setup(self):
        self.stem = nn.Conv(self.width, (3, 3))
        self.blocks = [SetupBlock(self.width) for _ in range(2)]
        self.twice = SetupBlock(self.width)
        self.head = nn.Dense(10)

    def __call__(self, x, train=False):
        return self.head(self.features(x, train))

    def features(self, x, train=False):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, train)
        x = self.twice(x, train)
        return self.twice(x, train).mean((1, 2))


class SqueezeExcite(nn.Module):
    reduced: int = 4

    @nn.compact
    def __call__(self, x):
        s = x.mean((1, 2), keepdims=True)
        s = nn.relu(nn.Conv(self.reduced, (1, 1))(s))
        return x * nn.sigmoid(nn.Conv(x.shape[-1], (1, 1))(s))


class InvertedResidual(nn.Module):
    features: int
    stride: int = 1
    se: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        wide = 3 * x.shape[-1]
        y = nn.relu6(norm()(nn.Conv(wide, (1, 1), use_bias=False)(x)))
        depthwise = nn.Conv(wide, (3, 3), (self.stride,) * 2, feature_group_count=wide, use_bias=False)
        y = nn.relu6(norm()(depthwise(y)))
        if self.se:
            y = SqueezeExcite(name="se")(y)
        y = norm()(nn.Conv(self.features, (1, 1), use_bias=False)(y))
        if x.shape != y.shape:
            return y
        y = nn.Dropout(0.2, broadcast_dims=(1, 2, 3), deterministic=not train)(y)
        return x + y


class MobileNet(nn.Module):
    """Blocks with and without a shortcut, as MobileNetV2 and, with SE, EfficientNet."""

    se: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), (2, 2), use_bias=False)(x)
        for i, (features, stride) in enumerate([(8, 1), (16, 2), (16, 1)]):
            x = InvertedResidual(features, stride, self.se, name=f"block_{i}")(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


class ConvNeXtBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        y = nn.LayerNorm()(nn.Conv(c, (7, 7), feature_group_count=c)(x))
        y = nn.Dense(c)(nn.gelu(nn.Dense(4 * c)(y)))
        scale = self.param("layer_scale", nn.initializers.constant(1e-6), (c,))
        return x + scale * y


class ConvNeXt(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Conv(8, (4, 4), (4, 4))(x))
        x = ConvNeXtBlock()(x)
        x = nn.Conv(16, (2, 2), (2, 2))(nn.LayerNorm()(x))
        x = ConvNeXtBlock()(x)
        return nn.Dense(10)(nn.LayerNorm()(x.mean((1, 2))))


class PreActivation(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3))(x)
        for i in range(2):
            y = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"norm{i}_a")(x))
            y = nn.Conv(8, (3, 3), name=f"conv{i}_a")(y)
            y = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"norm{i}_b")(y))
            x = x + nn.Conv(8, (3, 3), name=f"conv{i}_b")(y)
        return x.mean((1, 2))


class ResidualN(nn.Module):
    """With any number of spatial axes."""

    axes: int

    @nn.compact
    def __call__(self, x, train=False):
        kernel = (3,) * self.axes
        x = nn.Conv(6, kernel)(x)
        for i in range(2):
            y = nn.relu(nn.GroupNorm(2, name=f"norm{i}_a")(nn.Conv(6, kernel, name=f"conv{i}_a")(x)))
            x = x + nn.GroupNorm(2, name=f"norm{i}_b")(nn.Conv(6, kernel, name=f"conv{i}_b")(y))
        return nn.Dense(10)(x.mean(tuple(range(1, self.axes + 1))))


class Carried(nn.Module):
    """A block as `nn.scan` wants it."""

    features: int

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.GroupNorm(2)(nn.Conv(self.features, (3, 3))(x))
        return nn.relu(x + y), None


class Lifted(nn.Module):
    """Blocks under remat, under scan, and as they are."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (1, 1))(x)
        x, _ = nn.remat(Carried)(8, name="remat")(x)
        scanned = nn.scan(Carried, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = scanned(8, name="scan")(x, None)
        x, _ = Carried(8, name="plain")(x)
        return nn.Dense(10)(x.mean((1, 2)))


class Classifier(nn.Module):
    """The two convolutions of the founding question, (N, L, C)."""

    widths: Sequence[int] = (64, 128)

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate(self.widths):
            x = nn.relu(nn.Conv(width, (3,), name=f"conv{i + 1}")(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


def image(*shape, seed=1):
    """Drawn by NumPy: JAX compiles its `normal` anew for each shape."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape or (2, 8, 8, 3)), jnp.float32)


def trained(module, x, seed=0):
    """Return variables with no zero in them: a norm whose scale is zero would hide what is before it.

    Drawn by NumPy in the shapes of `init`, which is slow where it is not compiled.
    """
    rng = np.random.default_rng(seed)
    leaves = {}
    for keys, leaf in flatten_dict(jax.eval_shape(module.init, jax.random.key(0), x)).items():
        if keys[-1] in ("scale", "layer_scale", "var"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        elif keys[-1] in ("bias", "mean"):
            value = rng.normal(size=leaf.shape) / 4
        else:  # a kernel, in a scan with one axis more
            value = rng.normal(size=leaf.shape) * np.prod(leaf.shape[-1 - (leaf.ndim > 2) : -1] or 1) ** -0.5 / 2
        leaves[keys] = jnp.asarray(value, leaf.dtype)
    return unflatten_dict(leaves)


# --- for the tests ---

RESIDUAL = {
    "resnet": ["layer1_0/BatchNorm_1", "layer2_0/BatchNorm_1", "layer2_1/BatchNorm_1"],
    "bottleneck": ["layer1_0/BatchNorm_2", "layer2_0/BatchNorm_2", "layer2_1/BatchNorm_2"],
    "setup": ["blocks_0/bn2", "blocks_1/bn2", "twice/bn2"],
    "mobilenet": ["block_0/BatchNorm_2", "block_2/BatchNorm_2"],
    "mobilenet-se": ["block_0/BatchNorm_2", "block_2/BatchNorm_2"],
    "convnext": ["ConvNeXtBlock_0/Dense_0", "ConvNeXtBlock_1/Dense_0"],
    "pre-activation": ["conv0_b", "conv1_b"],
    "1d": ["norm0_b", "norm1_b"],
    "3d": ["norm0_b", "norm1_b"],
    "lifted": ["remat/GroupNorm_0", "scan/GroupNorm_0", "plain/GroupNorm_0"],
}
KEY = jax.random.key(0, impl="rbg")  # compiles fast
NETWORKS = {  # the network, its inputs
    "resnet": (ResNet(), image()),
    "bottleneck": (ResNet(Bottleneck), image()),
    "setup": (SetupNet(), image()),
    "mobilenet": (MobileNet(), image()),
    "mobilenet-se": (MobileNet(se=True), image()),
    "convnext": (ConvNeXt(), image(2, 32, 32, 3)),
    "pre-activation": (PreActivation(), image()),
    "1d": (ResidualN(1), image(2, 12, 3)),
    "3d": (ResidualN(3), image(2, 5, 4, 3, 2)),
    "lifted": (Lifted(), image(2, 8, 8, 3)),
}


@cache
def network(name):
    """A network, variables as after training, inputs."""
    module, x = NETWORKS[name]
    return module, trained(module, x), x


@cache
def gated(name, where="residual"):
    """The same with ECA; not verified, which tests do themselves."""
    module, variables, x = network(name)
    return *insert_eca(module, variables, where, example_inputs=x, verify=False), x


def flat(tree):
    return {"/".join(keys): leaf for keys, leaf in flatten_dict(core.unfreeze(tree)).items()}


def equal(a, b):
    """Whether two trees are the same, bit for bit."""
    same = jax.tree.map(lambda p, q: np.asarray(p).tobytes() == np.asarray(q).tobytes() and p.dtype == q.dtype, a, b)
    return all(jax.tree.leaves(same))


def randomised(module, variables, seed=3):
    """The variables with kernels that are not zero."""
    kernels = own.eca_state(module, variables)
    drawn = [jax.random.normal(jax.random.key(seed + i), k.shape) for i, k in enumerate(jax.tree.leaves(kernels))]
    return own.load_eca_state(module, variables, jax.tree.unflatten(jax.tree.structure(kernels), drawn))
