"""What the tests of the Keras layer share: float32 tensors and the oracle of them."""

import json

import numpy as np
from keras import ops

from eca_multi import reference

# Float32 rounds at 2**-24. No value here is larger than 8, and no error passes through more than 32 roundings of that
# size: the longest mean has 63 terms, which are added pairwise or in lanes. A wrong formula is off by 1e-2 or more.
ROUNDING = {"rtol": 0, "atol": 32 * 8 * 2**-24}


def draw(rng, shape=(2, 9, 7, 12), kernel=(3, 1, 1), channel_axis=-1):
    """A float32 feature map with an offset for each channel, and an asymmetric kernel."""
    channels = shape[channel_axis]
    offsets = np.moveaxis(rng.uniform(-2, 2, (1,) * (len(shape) - 1) + (channels,)), -1, channel_axis)
    return (rng.normal(size=shape) + offsets).astype("float32"), rng.normal(size=kernel).astype("float32")


def canonical(kernel):
    """(k, 1, 1) to (k,) and (k, 1, C) to (C, k), as the oracle takes it."""
    matrix = np.asarray(kernel, np.float64)[:, 0].T
    return matrix[0] if len(matrix) == 1 else matrix


def oracle(x, kernel, *, channel_axis=-1, **options):
    return reference.forward(x, canonical(kernel), channel_axis=channel_axis, **options).y


def with_kernel(layer, kernel, shape):
    layer.build(shape)
    layer.kernel.assign(kernel)
    return layer


def numpy(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def through_json(config):
    return json.loads(json.dumps(config))
