"""Small networks of the tables' kinds for the Keras tests: a network of full size takes seconds to build, and minutes
to compile in JAX."""

import contextlib

import keras
import numpy as np
import pytest
import torch
from keras import ops
from torch import nn

import eca_multi.torch.networks
from eca_multi.keras import from_canonical, networks
from eca_multi.networks import NETWORKS, MobileNetV2, ResNet
from eca_multi.torch import from_canonical as torch_from_canonical
from eca_multi.torch import to_canonical as torch_to_canonical

BACKEND = keras.backend.backend()
# TensorFlow computes all of a float64 network in float64. On the other backends Keras normalises in float32, whatever
# the dtype: its result_type of float64 and float32 is float32 there.
TOLERANCE = 1e-9 if BACKEND == "tensorflow" else 1e-5

TINY = {
    # basic blocks, the original stem, a strided shortcut
    "tiny_basic": ResNet("tiny_basic", (1, 2), "basic", widths=((8, 64), (8, 24), (8, 24)), kernels=(3, 5)),
    # bottlenecks in groups, timm's stem, shortcuts that average
    "tiny_deep": ResNet(
        "tiny_deep",
        (1, 2),
        stem="deep_tiered",
        stem_width=8,
        average_down=True,
        groups=2,
        widths=((8, 8, 16), (8, 8, 24), (8, 8, 24)),
        kernels=(5, 3),
    ),
    "tiny_mobile": MobileNetV2("tiny_mobile", settings=((1, 16, 1, 1), (6, 24, 2, 2)), kernels=(1, 3)),
}


@keras.saving.register_keras_serializable(package="tests")
class Normal(keras.initializers.Initializer):
    """NumPy's: JAX compiles a function for the random numbers of each new shape, which takes most of a test's time."""

    def __init__(self, mean=0.0, stddev=0.05):
        self.stddev = stddev

    def __call__(self, shape, dtype=None):
        return ops.convert_to_tensor(np.random.default_rng(0).normal(0, self.stddev, shape), dtype)

    def get_config(self):
        return {"stddev": self.stddev}


@contextlib.contextmanager
def small_networks(*modules):
    """Let the small networks be found by name, and built by name from these modules."""
    with pytest.MonkeyPatch.context() as patch:
        for name, network in TINY.items():
            patch.setitem(NETWORKS, name, network)
            for module in modules:
                patch.setattr(module, name, networks._builder(name), raising=False)
        if BACKEND == "jax":
            patch.setattr(keras.initializers, "RandomNormal", Normal)
        yield


def build(name, /, **options):
    return networks._builder(name)(**options)


def build_torch(name, /, **options):
    return eca_multi.torch.networks._builder(name)(**options)


def twins(name, /, seed=0, dtype="float64", keras_options=None, **options):
    """The same network in Keras and in torch, scales and statistics as of a trained one, and the weights of both."""
    model = build_torch(name, dtype=getattr(torch, dtype), **options)
    rng = np.random.default_rng(seed)
    weights = torch_to_canonical(model)
    for key, tensor in model.tensors.items():
        if tensor.kind in ("norm_scale", "norm_var"):
            weights[key] = rng.uniform(0.5, 1.5, tensor.shape).astype(dtype)
        elif tensor.kind in ("norm_bias", "norm_mean"):
            weights[key] = rng.normal(0, 0.1, tensor.shape).astype(dtype)
        elif tensor.kind == "eca":
            weights[key] = rng.normal(0, 0.5, tensor.shape).astype(dtype)
    torch_from_canonical(model, weights)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ours = build(name, dtype=dtype, **options, **(keras_options or {}))
    for layer in ours.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return from_canonical(ours, weights), model, weights


@contextlib.contextmanager
def float64():
    """Keras's default dtype, which data pass through in training, and JAX's permission."""
    before = keras.config.floatx()
    with contextlib.ExitStack() as stack:
        if BACKEND == "jax":
            import jax

            stack.enter_context(jax.enable_x64(True))
        keras.config.set_floatx("float64")
        try:
            yield
        finally:
            keras.config.set_floatx(before)


def numpy(tensors):
    return keras.tree.map_structure(ops.convert_to_numpy, tensors)


def run(model, x):
    """The outputs in inference, in one compiled function on JAX, where single operations would be compiled singly."""
    if BACKEND != "jax":
        return numpy(model(x, training=False))
    import jax

    trainable = [v.value for v in model.trainable_variables]
    rest = [v.value for v in model.non_trainable_variables]
    return numpy(jax.jit(lambda t, r, x: model.stateless_call(t, r, x, training=False)[0])(trainable, rest, x))


def run_torch(model, x):
    """The outputs of a torch network for x with the channels last, so too."""
    with torch.no_grad():
        y = model(torch.from_numpy(np.moveaxis(x, -1, 1).copy()))
    y = [np.moveaxis(part.numpy(), 1, -1) for part in (y if isinstance(y, list) else [y])]
    return y if len(y) > 1 else y[0]


def close(a, b):
    return np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * np.abs(b).max())
