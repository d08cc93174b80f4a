"""Small Keras networks that look at no later position, and such that do, for the tests of surgery that keeps causality.

Each function of `CAUSAL` returns a model whose output has the input's axis of time, and shares no name with another.
"""

import keras
import numpy as np
from keras import layers as L
from keras import ops

from .surgery_keras_nets import conv_bn, randomised

T, C = 12, 3


def tcn():
    """Two residual blocks of dilated causal convolutions, as in Bai et al. 2018."""
    inputs = x = keras.Input((T, C), name="series")
    for n, dilation in enumerate((1, 2)):
        y = L.Conv1D(8, 3, padding="causal", dilation_rate=dilation, name=f"block{n}_conv1")(x)
        y = L.ReLU(name=f"block{n}_relu")(y)
        y = L.Conv1D(8, 3, padding="causal", dilation_rate=dilation, name=f"block{n}_conv2")(y)
        x = L.Conv1D(8, 1, name=f"block{n}_skip")(x) if n == 0 else x
        x = L.ReLU(name=f"block{n}_out")(L.Add(name=f"block{n}_add")([x, y]))
    return randomised(keras.Model(inputs, L.Dense(2, name="head")(x), name="tcn"))


def chomped():
    """The TCN of the paper: padding on both sides, and Cropping1D takes the last positions off."""
    inputs = x = keras.Input((T, 8), name="series")
    for n, dilation in enumerate((1, 2)):
        y = L.ZeroPadding1D(2 * dilation, name=f"block{n}_pad")(x)
        y = L.Conv1D(8, 3, dilation_rate=dilation, name=f"block{n}_conv")(y)
        y = L.Cropping1D((0, 2 * dilation), name=f"block{n}_chomp")(y)
        y = L.BatchNormalization(name=f"block{n}_bn")(y)
        x = L.Add(name=f"block{n}_add")([x, y])
    return randomised(keras.Model(inputs, L.Dense(2, name="head")(x), name="chomped"))


def wavenet():
    """Gated and dilated, with a time axis of unknown length: van den Oord et al. 2016."""
    inputs = keras.Input((None, 1), name="wave")
    x, skips = L.Conv1D(8, 2, padding="causal", name="front")(inputs), []
    for n in range(3):
        y = L.Conv1D(16, 2, padding="causal", dilation_rate=2**n, name=f"layer{n}_gated")(x)
        a, b = ops.split(y, 2, axis=-1)
        y = ops.tanh(a) * ops.sigmoid(b)
        skips.append(L.Conv1D(8, 1, name=f"layer{n}_skip")(y))
        x = L.Add(name=f"layer{n}_add")([x, L.Conv1D(8, 1, name=f"layer{n}_out")(y)])
    x = L.ReLU(name="relu")(L.Add(name="skips")(skips))
    return randomised(keras.Model(inputs, L.Conv1D(4, 1, name="head")(x), name="wavenet"))


def sequential():
    stack = [
        keras.Input((T, C), name="series"),
        L.Conv1D(8, 3, padding="causal", name="conv1"),
        L.BatchNormalization(name="bn1"),
        L.ReLU(name="relu1"),
        L.Conv1D(8, 3, padding="causal", name="conv2"),
        L.Conv1D(2, 1, name="head"),
    ]
    return randomised(keras.Sequential(stack, name="sequential"))


@keras.saving.register_keras_serializable("tests")
def one_in_front(x):
    return ops.pad(x, ((0, 0), (1, 0), (0, 0)))


def left_padded():
    """Padding by hand, once by a layer, once by keras.ops, once in a Lambda."""
    inputs = keras.Input((T, C), name="series")
    x = L.Conv1D(8, 3, name="conv1")(L.ZeroPadding1D((2, 0), name="pad1")(inputs))
    y = L.Conv1D(8, 3, dilation_rate=2, name="conv2")(ops.pad(x, ((0, 0), (4, 0), (0, 0))))
    x = L.Add(name="add1")([x, L.BatchNormalization(name="bn2")(y)])
    padded = L.Lambda(one_in_front, name="pad3")(x)
    x = L.Add(name="add2")([x, L.Conv1D(8, 2, name="conv3")(padded)])
    return randomised(keras.Model(inputs, L.Dense(2, name="head")(x), name="left_padded"))


def video():
    """A ResNet on each frame, and layers behind it that keep the frames apart: (N, T, H, W, C)."""
    image = keras.Input((6, 5, 3), name="image")
    x = conv_bn(image, 8, 3, "stem")
    y = conv_bn(conv_bn(x, 8, 3, "a"), 8, 3, "b", activation=False)
    frame = keras.Model(image, L.ReLU(name="frame_out")(L.Add(name="frame_add")([x, y])), name="frame")
    inputs = keras.Input((4, 6, 5, 3), name="frames")
    x = L.TimeDistributed(frame, name="each")(inputs)
    y = L.TimeDistributed(L.Conv2D(8, 3, padding="same", name="inner"), name="conv")(x)
    y = L.BatchNormalization(name="bn")(y)
    x = L.Add(name="add")([x, y])
    x = L.TimeDistributed(L.GlobalAveragePooling2D(name="gap"), name="pool")(x)
    return randomised(keras.Model(inputs, L.Dense(2, name="head")(x), name="video"))


def causal_3d():
    """Convolutions over space and time that see no later frame: padding in front along time."""
    inputs = x = keras.Input((5, 6, 4, 8), name="frames")
    for n in range(2):
        y = L.ZeroPadding3D(((2, 0), (1, 1), (1, 1)), name=f"block{n}_pad")(x)
        y = L.Conv3D(8, 3, use_bias=False, name=f"block{n}_conv")(y)
        y = L.BatchNormalization(name=f"block{n}_bn")(y)
        x = L.ReLU(name=f"block{n}_out")(L.Add(name=f"block{n}_add")([x, y]))
    return randomised(keras.Model(inputs, ops.mean(L.Dense(2, name="head")(x), (2, 3)), name="causal_3d"))


def recurrent():
    """A residual convolution in front of an LSTM; the input is text, so its axis of time is the only one."""
    inputs = keras.Input((T,), dtype="int32", name="text")
    x = L.Embedding(7, 8, name="embedding")(inputs)
    y = L.Conv1D(8, 3, padding="causal", name="conv")(x)
    x = L.Add(name="add")([x, y])
    x = L.LSTM(6, return_sequences=True, name="lstm")(x)
    return randomised(keras.Model(inputs, L.Dense(2, name="head")(x), name="recurrent"))


CAUSAL = (tcn, chomped, wavenet, sequential, left_padded, causal_3d, recurrent)
FRAMEWISE = (video,)


def inputs_of(model, seed=0, batch=2):
    """Random inputs; an axis of unknown length gets T positions."""
    rng = np.random.default_rng(seed)
    shape = (batch, *(size or T for size in model.inputs[0].shape[1:]))
    if model.inputs[0].dtype == "int32":
        return rng.integers(0, 7, shape).astype("int32")
    return rng.standard_normal(shape).astype("float32")


# --- networks that promise nothing ---


def same_padding():
    inputs = keras.Input((T, C))
    x = L.Conv1D(8, 3, padding="same", name="conv1")(inputs)
    x = L.Add(name="add")([x, L.Conv1D(8, 3, padding="same", name="conv2")(x)])
    return randomised(keras.Model(inputs, L.Dense(2, name="head")(x), name="same_padding"))


def bidirectional():
    inputs = keras.Input((T, C))
    x = L.Conv1D(8, 3, padding="causal", name="conv1")(inputs)
    x = L.Add(name="add")([x, L.Conv1D(8, 3, padding="causal", name="conv2")(x)])
    x = L.Bidirectional(L.LSTM(4, return_sequences=True), name="both_ways")(x)
    return randomised(keras.Model(inputs, L.Dense(2, name="head")(x), name="bidirectional"))


def unet():
    inputs = keras.Input((16, 12, 3))
    a = conv_bn(inputs, 8, 3, "down")
    b = conv_bn(L.MaxPooling2D(name="pool")(a), 8, 3, "low")
    b = L.Add(name="low_add")([b, conv_bn(b, 8, 3, "low2", activation=False)])
    x = L.Concatenate(name="cat")([a, L.UpSampling2D(name="up")(b)])
    return randomised(keras.Model(inputs, L.Conv2D(2, 1, name="head")(conv_bn(x, 8, 3, "last")), name="unet"))


def classifier():
    """Causal convolutions whose positions are averaged at the end: no output has the axis, so nothing is promised."""
    inputs = keras.Input((T, C))
    x = L.Conv1D(8, 3, padding="causal", name="conv1")(inputs)
    x = L.Add(name="add")([x, L.Conv1D(8, 3, padding="causal", name="conv2")(x)])
    x = L.GlobalAveragePooling1D(name="pool")(x)
    return randomised(keras.Model(inputs, L.Dense(2, name="head")(x), name="classifier"))


def attended():
    """Self-attention without a causal mask behind causal convolutions."""
    inputs = keras.Input((T, C))
    x = L.Conv1D(8, 3, padding="causal", name="conv1")(inputs)
    x = L.Add(name="add")([x, L.Conv1D(8, 3, padding="causal", name="conv2")(x)])
    x = L.Add(name="add2")([x, L.MultiHeadAttention(2, 4, name="attention")(x, x)])
    return randomised(keras.Model(inputs, L.Dense(2, name="head")(x), name="attended"))


ORDINARY = (same_padding, bidirectional, unet, classifier, attended)
