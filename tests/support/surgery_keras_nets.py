"""Small Keras networks, each with one pattern of a large one, for the tests of surgery."""

import copy

import keras
import numpy as np
from keras import layers as L

from eca_multi.keras import base_state
from eca_multi.keras.surgery._find.graph import Network

X2 = (2, 16, 16, 3)


def data(shape=X2, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def randomised(model, seed=0):
    """All weights anew, the same on each backend; norm scales, statistics and layer scales away from 0 and 1, where
    equality of outputs would be vacuous."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance", "scale"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape).astype("float32"))
        elif weight.name in ("beta", "moving_mean", "bias"):
            weight.assign(rng.normal(0, 0.3, weight.shape).astype("float32"))
        elif weight.name == "kernel":
            deviation = (2 / np.prod(weight.shape[:-1])) ** 0.5
            weight.assign(rng.normal(0, deviation, weight.shape).astype("float32"))
    return model


def names(model):
    return [layer.name for layer in model.layers]


def trace_of(model):
    """All that surgery must leave alone in a model: weights, flags, configs, and the records of its calls."""
    calls = [(len(op._inbound_nodes), len(op._outbound_nodes)) for op in Network(model).leaves()]
    flags = [(layer.name, layer.trainable, layer.built) for layer in model._flatten_layers()]
    weights = {key: value.tobytes() for key, value in base_state(model).items()}
    return copy.deepcopy((calls, flags, weights, model.get_config(), names(model)))


def step(model, x):
    """One step of gradient descent on all that is trained."""
    y = np.ones((len(x), 5), "float32")
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False, run_eagerly=keras.backend.backend() != "jax")
    model.train_on_batch(x, y)


def conv_bn(x, filters, size, name, *, rank=2, strides=1, activation=True):
    conv = getattr(L, f"Conv{rank}D")
    x = conv(filters, size, strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = L.BatchNormalization(name=f"{name}_bn")(x)
    return L.ReLU(name=f"{name}_relu")(x) if activation else x


def head(x, rank=2):
    return L.Dense(5, name="head")(getattr(L, f"GlobalAveragePooling{rank}D")(name="pool")(x))


def resnet(rank=2, shape=(16, 16, 3), strides=(2, 1)):
    """Branch, norm, add, activation; the first block has a convolution in its shortcut."""
    inputs = keras.Input(shape, name="image")
    x = conv_bn(inputs, 8, 3, "stem", rank=rank)
    for n, stride in enumerate(strides):
        name = f"block{n}"
        y = conv_bn(x, 8, 3, f"{name}_1", rank=rank, strides=stride)
        y = conv_bn(y, 16, 3, f"{name}_2", rank=rank, activation=False)
        if n == 0:
            x = conv_bn(x, 16, 1, f"{name}_0", rank=rank, strides=stride, activation=False)
        x = L.ReLU(name=f"{name}_out")(L.Add(name=f"{name}_add")([x, y]))
    return randomised(keras.Model(inputs, head(x, rank), name="resnet"))


def preact():
    """Norm and activation first, the branch ends in a convolution: ResNetV2."""
    inputs = keras.Input((16, 16, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for n in range(2):
        y = L.ReLU(name=f"block{n}_pre")(L.BatchNormalization(name=f"block{n}_bn")(x))
        y = L.Conv2D(8, 3, padding="same", name=f"block{n}_1_conv")(y)
        x = L.Add(name=f"block{n}_add")([x, L.Conv2D(8, 3, padding="same", name=f"block{n}_2_conv")(y)])
    return randomised(keras.Model(inputs, head(x), name="preact"))


def mobile():
    """Inverted residuals; blocks that change the width have no add: MobileNetV2."""
    inputs = keras.Input((16, 16, 3), name="image")
    x = conv_bn(inputs, 8, 3, "stem")
    for n, filters in enumerate((12, 12, 16)):
        y = conv_bn(x, 24, 1, f"block_{n}_expand")
        y = L.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"block_{n}_depthwise_conv")(y)
        y = L.ReLU(name=f"block_{n}_depthwise_relu")(L.BatchNormalization(name=f"block_{n}_depthwise_bn")(y))
        y = conv_bn(y, filters, 1, f"block_{n}_project", activation=False)
        x = L.Add(name=f"block_{n}_add")([x, y]) if x.shape == y.shape else y
    return randomised(keras.Model(inputs, head(x), name="mobile"))


def squeeze(x, name, filters):
    s = L.GlobalAveragePooling2D(keepdims=True, name=f"{name}_se_squeeze")(x)
    s = L.Conv2D(4, 1, activation="relu", name=f"{name}_se_reduce")(s)
    s = L.Conv2D(filters, 1, activation="sigmoid", name=f"{name}_se_expand")(s)
    return L.Multiply(name=f"{name}_se_excite")([x, s])


def efficient():
    """Squeeze-and-excitation inside, dropout before the add: EfficientNet."""
    inputs = keras.Input((16, 16, 3), name="image")
    x = conv_bn(L.Normalization(mean=[0.1] * 3, variance=[2.0] * 3, name="scaled")(inputs), 8, 3, "stem")
    for n in range(2):
        y = squeeze(conv_bn(x, 16, 3, f"block{n}_expand"), f"block{n}", 16)
        y = conv_bn(y, 8, 1, f"block{n}_project", activation=False)
        y = L.Dropout(0.01, noise_shape=(None, 1, 1, 1), name=f"block{n}_drop")(y)
        x = L.Add(name=f"block{n}_add")([y, x])
    return randomised(keras.Model(inputs, head(x), name="efficient"))


@keras.saving.register_keras_serializable(package="tests")
class Scale(L.Layer):
    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=shape[-1:], initializer="ones")

    def call(self, x):
        return x * self.scale


def convnext():
    """Dense layers for 1x1 convolutions, a layer scale, `a + b`: ConvNeXt."""
    inputs = keras.Input((16, 16, 3), name="image")
    x = L.LayerNormalization(name="stem_norm")(L.Conv2D(8, 2, strides=2, name="stem_conv")(inputs))
    for n in range(2):
        y = L.Conv2D(8, 3, padding="same", groups=8, name=f"block{n}_depthwise")(x)
        y = L.Dense(16, activation="gelu", name=f"block{n}_wide")(L.LayerNormalization(name=f"block{n}_norm")(y))
        y = Scale(name=f"block{n}_scale")(L.Dense(8, name=f"block{n}_narrow")(y))
        x = x + L.Activation("linear", name=f"block{n}_identity")(y)
    return randomised(keras.Model(inputs, head(x), name="convnext"))


def sequence(shape=(12, 8)):
    """The two-layer classifier of the founding question, for sequences (N, L, C)."""
    return randomised(
        keras.Sequential(
            [
                keras.Input(shape),
                L.Conv1D(64, 3, padding="same", name="conv1"),
                L.ReLU(name="relu1"),
                L.Conv1D(128, 3, padding="same", name="conv2"),
                L.ReLU(name="relu2"),
                L.GlobalAveragePooling1D(name="pool"),
                L.Dense(10, name="head"),
            ],
            name="sequence",
        )
    )


# The network, the sites of where="residual" in it, the shape of its input.
RESIDUAL = {
    "resnet": (resnet, ("block0_2_bn", "block1_2_bn"), X2),
    "preact": (preact, ("block0_2_conv", "block1_2_conv"), X2),
    "mobile": (mobile, ("block_1_project_bn",), X2),
    "efficient": (efficient, ("block0_project_bn", "block1_project_bn"), X2),
    "convnext": (convnext, ("block0_scale", "block1_scale"), X2),
    "resnet-1d": (lambda: resnet(1, (12, 3), [1]), ("block0_2_bn",), (2, 12, 3)),
    "resnet-3d": (lambda: resnet(3, (4, 6, 3, 3), [1]), ("block0_2_bn",), (2, 4, 6, 3, 3)),
}
