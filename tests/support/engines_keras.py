"""A network with ECA on the devices of Keras: `KERAS_BACKEND=... python engines_keras.py RESULTS`, a run per backend.

On JAX: `keras.distribution` on eight virtual devices, with the batch or the channels of all kernels spread. On
TensorFlow: MirroredStrategy on two logical devices. RESULTS (.npz) gets, by `ENGINE/NAME`, the loss of each step and
the weights at the end; `one/...` are those of one device, `noise.../...` those of its re-runs under rounding noise.
All in float32: on JAX, Keras 3.15 rounds to it after each convolution even where floatx is float64.
test_keras_engines.py runs it.
"""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
from keras import distribution, layers

from eca_multi.keras import ECA

STEPS = 20
BATCH, SIZE, CHANNELS, CLASSES = 16, 6, 16, 4  # two samples, or two channels, on each of eight devices
NOISY_RUNS = 8
TERMS = BATCH * SIZE * SIZE  # of the longest sum: the gradient of a convolution's kernel


def make(attention=ECA):
    """Return the network, with the same weights each time. The layout map refers to the layers' names."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(CHANNELS, 3, padding="same", activation="tanh", name="conv1")(inputs)
    x = attention(5, name="eca1")(x)
    x = layers.Conv2D(CHANNELS, 3, padding="same", activation="tanh", name="conv2")(x)
    x = ECA(3, padding="circular", shared=False, name="eca2")(x)
    model = keras.Model(inputs, layers.Dense(CLASSES, name="head")(layers.GlobalAveragePooling2D()(x)))
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9), "mean_squared_error")
    return model


def batches():
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        yield rng.normal(size=(BATCH, SIZE, SIZE, 3)), rng.normal(size=(BATCH, CLASSES))


def on_batch(model, x, target):
    model.reset_metrics()
    return model.train_on_batch(x, target)


def by_fit(model, x, target):
    """MirroredStrategy splits the batches of a dataset; train_on_batch sends its whole batch to one replica."""
    return model.fit(x, target, batch_size=BATCH, shuffle=False, verbose=0).history["loss"][0]


def train(model, part=slice(None), before_step=lambda model: None, step=on_batch):
    losses = []
    for x, target in batches():
        before_step(model)
        losses.append(float(step(model, x[part], target[part])))
    return {"loss": np.array(losses), **{w.path: keras.ops.convert_to_numpy(w) for w in model.weights}}


def noise(seed):
    """Move each weight, before each step, by sqrt(n) roundings, n being the terms of the longest sum.

    A sum of n products, in any order, is the exact sum of products that each moved by at most n roundings, and about
    sqrt(n) as they fall either way (Higham, Accuracy and Stability of Numerical Algorithms, chapters 2 and 3).
    """
    rng = np.random.default_rng(seed)

    def move(model):
        for weight in model.trainable_weights:
            value = keras.ops.convert_to_numpy(weight).astype(np.float64)
            weight.assign(value * (1 + TERMS**0.5 * 2.0**-24 * rng.choice([-1.0, 1.0], value.shape)))

    return move


class ConvolutionECA(ECA):
    """ECA by a convolution: XLA gets its kernel's gradient wrong if channels are sharded and samples are not."""

    def call(self, inputs, mask=None):
        pooled = keras.ops.mean(inputs, (1, 2))[..., None]
        return inputs * keras.ops.sigmoid(keras.ops.conv(pooled, self.kernel, padding="same"))[:, None, None, :, 0]


class HalfBatchECA(ECA):
    """Check that a replica gets half of each batch: two replicas with the whole batch would agree with one device."""

    def call(self, inputs, mask=None):
        import tensorflow as tf

        tf.debugging.assert_equal(tf.shape(inputs)[0], BATCH // 2)
        return super().call(inputs, mask=mask)


# --- the engines ---------------------------------------------------------------------------------------------------


def data_parallel():
    distribution.set_distribution(distribution.DataParallel(devices=distribution.list_devices("cpu")))
    return train(make())


def model_parallel(attention=ECA, samples="batch"):
    """Shard samples over one axis of the mesh, and the channels of maps and kernels over the other axis."""
    mesh = distribution.DeviceMesh((2, 4), ("batch", "model"), devices=distribution.list_devices("cpu"))
    layout = distribution.LayoutMap(mesh)
    layout["conv./kernel"] = (None, None, None, "model")
    layout["conv./bias"] = ("model",)
    layout["eca2/kernel"] = (None, None, "model")
    layout["conv./output"] = (samples, None, None, "model")
    distribution.set_distribution(distribution.ModelParallel(layout_map=layout, batch_dim_name="batch"))
    model = make(attention)
    for name in ("conv1", "conv2", "eca2"):
        kernel = model.get_layer(name).kernel.value
        if kernel.sharding.shard_shape(kernel.shape)[-1] != CHANNELS // 4:
            raise RuntimeError(f"the kernel of {name} is not spread: {kernel.sharding}")
    return train(model)


def model_parallel_with_whole_batches():
    return model_parallel(samples=None)


def model_parallel_by_convolution():
    """The control."""
    return model_parallel(ConvolutionECA, samples=None)


def mirrored():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = make(HalfBatchECA)
    return train(model, step=by_fit)


def one_replica_alone():
    """The control: a replica trains on its half of each batch, and gradients are not averaged."""
    return train(make(), slice(BATCH // 2))


ENGINES = {
    "jax": (data_parallel, model_parallel, model_parallel_with_whole_batches, model_parallel_by_convolution),
    "tensorflow": (mirrored, one_replica_alone),
}


def main(results):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    model = make()  # one for all runs of one device: each network compiles for itself
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    start = [keras.ops.convert_to_numpy(variable) for variable in variables]
    found = {"one": train(model)}
    for seed in range(NOISY_RUNS):
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        found[f"noise{seed}"] = train(model, before_step=noise(seed))
    for engine in ENGINES[backend]:
        found[engine.__name__] = engine()
        distribution.set_distribution(None)
    arrays = {f"{run}/{name}": value for run, named in found.items() for name, value in named.items()}
    np.savez(results, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
