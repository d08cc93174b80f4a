"""Networks, inputs and comparisons for the tests of surgery on nnx networks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eca_multi.flax.nnx import (
    ECAParam,
    eca_parameters,
)
from tests.support import networks_nnx as networks
from tests.support.networks_nnx import filled, images

X = images((2, 16, 16, 3))
NETS = {  # network, input, residual sites with their channels
    "resnet": (
        lambda: networks.ResNet(blocks=(1, 1), rngs=nnx.Rngs(0)),
        X,
        {"layers.0.0.bn2": 8, "layers.1.0.bn2": 16},
    ),
    "bottleneck": (
        lambda: networks.ResNet(networks.Bottleneck, (1, 2), 4, rngs=nnx.Rngs(0)),
        X,
        {"layers.0.0.bn3": 16, "layers.1.0.bn3": 32, "layers.1.1.bn3": 32},
    ),
    "inverted-residual": (
        lambda: networks.MobileNet(rngs=nnx.Rngs(0)),
        X,
        {"blocks.0.bn3": 8, "blocks.2.bn3": 8},
    ),
    "convnext": (lambda: networks.ConvNeXt(rngs=nnx.Rngs(0)), X, {"blocks.0.down": 8, "blocks.1.down": 8}),
    "pre-activation": (lambda: networks.PreActivation(rngs=nnx.Rngs(0)), X, {"conv2": 8}),
    "sequences": (lambda: networks.Rank(1, rngs=nnx.Rngs(0)), images((2, 16, 2)), {"norm": 8}),
    "volumes": (lambda: networks.Rank(3, rngs=nnx.Rngs(0)), images((2, 4, 6, 5, 2)), {"norm": 8}),
    "stacked": (lambda: networks.Stacked(rngs=nnx.Rngs(0)), X, {"stack.norm": 8}),
}


def build(name="resnet", training=False):
    make, x, _ = NETS[name]
    model = filled(make)
    return (model.train() if training else model.eval()) or model, x


def small(**options):
    """A ResNet of two blocks: few operations to compile."""
    model = filled(lambda: networks.ResNet(blocks=(1, 1), rngs=nnx.Rngs(0), **options))
    model.eval()
    return model


def run(model, x=X):
    """Run a copy, so that its statistics and random streams stay; not compiled as a whole, which may round else."""
    return np.asarray(nnx.clone(model)(x))


def everything(model):
    """All that a change could change: the graph with its classes and attributes, and every number."""
    values = [
        np.asarray(jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v)
        for v in jax.tree.leaves(nnx.state(model))
    ]
    return nnx.graphdef(model), [(v.shape, v.dtype, v.tobytes()) for v in values]


def randomise_kernels(model, scale=0.5):
    for seed, kernel in enumerate(jax.tree.leaves(eca_parameters(model), is_leaf=lambda v: isinstance(v, ECAParam))):
        kernel[...] = scale * jax.random.normal(jax.random.key(seed), kernel.shape)
