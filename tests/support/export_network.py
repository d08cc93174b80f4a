"""One small network in every framework, with the same weights: what the export tests write out.

Three blocks of convolution, ReLU and ECA, then the mean over space and a classifier. Each block has another ECA: the
plain one, a circular one and ECA-NS. No extent but the number of channels is fixed.
"""

import numpy as np

CLASSES = 5

# Outputs of the convolution, kernel size and options of the ECA after it; no number of channels is a power of two.
BLOCKS = (
    (10, 3, {}),
    (14, 5, {"padding": "circular", "gate": "2sigmoid"}),
    (12, 3, {"gate": "hard_sigmoid", "shared": False}),
)


def weights(flipped=None):
    """Return the weights by name, as float32: kernels as (h, w, in, out), those of ECA as canonical ones.

    With `flipped`, the kernel of that block's ECA is turned around: a wrong network, for the tests to find.
    """
    rng = np.random.default_rng(6)
    found, inputs = {}, 3
    for i, (outputs, k, options) in enumerate(BLOCKS):
        found[f"conv{i}/kernel"] = rng.normal(size=(3, 3, inputs, outputs)) / np.sqrt(9 * inputs)
        found[f"conv{i}/bias"] = rng.uniform(-0.5, 1, outputs)  # so that the channels' means differ
        kernel = rng.normal(size=(k,) if options.get("shared", True) else (outputs, k))
        found[f"eca{i}"] = kernel[..., ::-1] if i == flipped else kernel
        inputs = outputs
    found["dense/kernel"] = rng.normal(size=(inputs, CLASSES)) / np.sqrt(inputs)
    found["dense/bias"] = rng.normal(size=CLASSES)
    return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}


def images(*shape):
    """Return images (N, H, W, 3), in float32, with a mean of its own for each sample and colour."""
    rng = np.random.default_rng(list(shape))
    return np.float32(rng.normal(size=shape) + rng.uniform(-1, 1, (shape[0], 1, 1, shape[-1])))


def torch_network(flipped=None):
    """Return the network as an nn.Module on (N, C, H, W)."""
    from torch import nn

    from eca_multi.torch import ECA, from_canonical

    layers, inputs, w = [], 3, weights(flipped)
    for i, (outputs, k, options) in enumerate(BLOCKS):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        conv.load_state_dict(_torch_kernel(w, f"conv{i}", (3, 2, 0, 1)))
        layers += [conv, nn.ReLU(), from_canonical(ECA(outputs, k, **options), {"weight": w[f"eca{i}"]})]
        inputs = outputs
    dense = nn.Linear(inputs, CLASSES)
    dense.load_state_dict(_torch_kernel(w, "dense", (1, 0)))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense).eval()


def _torch_kernel(w, name, axes):
    import torch

    return {
        "weight": torch.from_numpy(w[f"{name}/kernel"].transpose(axes).copy()),
        "bias": torch.from_numpy(w[f"{name}/bias"]),
    }


def keras_network(padding="same"):
    """Return the network as a functional model on (N, H, W, C)."""
    import keras

    from eca_multi.keras import ECA, from_canonical

    w = weights()
    x = inputs = keras.Input((None, None, 3), name="x")
    for i, (outputs, k, options) in enumerate(BLOCKS):
        x = keras.layers.Conv2D(outputs, 3, padding=padding, activation="relu", name=f"conv{i}")(x)
        x = ECA(k, name=f"eca{i}", **options)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, name="dense")(x))
    for layer in model.layers:
        if isinstance(layer, ECA):
            from_canonical(layer, {"weight": w[layer.name]})
        elif layer.weights:
            layer.set_weights([w[f"{layer.name}/kernel"], w[f"{layer.name}/bias"]])
    return model


def keras_unpadded():
    return keras_network("valid")


def keras_dense():
    """A model of one layer that is not ours: if that model fails too, the fault is not ECA's."""
    import keras

    inputs = keras.Input((None, None, 3), name="x")
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(inputs))


def keras_convolution():
    """One unpadded convolution."""
    import keras

    inputs = keras.Input((None, None, 3), name="x")
    return keras.Model(inputs, keras.layers.Conv2D(CLASSES, 3)(inputs))


def jax_pad():
    """Only the JAX operation by which ECA shifts the channels' means."""
    from jax import lax

    return lambda x: lax.pad(x, np.float32(0), ((0, 0, 0), (0, 0, 0), (0, 0, 0), (1, -1, 0)))


def linen_network():
    """Return the network as a function of (N, H, W, C)."""
    from flax import linen as nn

    from eca_multi.flax.linen import ECA, from_canonical

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i, (outputs, k, options) in enumerate(BLOCKS):
                x = nn.relu(nn.Conv(outputs, (3, 3), padding="SAME", name=f"conv{i}")(x))
                x = ECA(k, name=f"eca{i}", **options)(x)
            return nn.Dense(CLASSES, name="dense")(x.mean((1, 2)))

    w, params = weights(), {}
    for name in ("conv0", "conv1", "conv2", "dense"):
        params[name] = {"kernel": w[f"{name}/kernel"], "bias": w[f"{name}/bias"]}
    for i, (outputs, k, options) in enumerate(BLOCKS):
        layer = ECA(k, **options)
        fresh = layer.init(_key(), np.zeros((1, 1, outputs), np.float32))
        params[f"eca{i}"] = from_canonical(fresh, {"weight": w[f"eca{i}"]})["params"]
    return lambda x: Network().apply({"params": params}, x)


def nnx_network():
    """Return the network as a function of (N, H, W, C)."""
    from flax import nnx

    from eca_multi.flax.nnx import ECA, from_canonical

    w, rngs, layers, inputs = weights(), nnx.Rngs(0), [], 3

    def load(layer, name):
        layer.kernel[...], layer.bias[...] = w[f"{name}/kernel"], w[f"{name}/bias"]
        return layer

    for i, (outputs, k, options) in enumerate(BLOCKS):
        layers += [load(nnx.Conv(inputs, outputs, (3, 3), padding="SAME", rngs=rngs), f"conv{i}"), nnx.relu]
        layers.append(from_canonical(ECA(outputs, k, rngs=rngs, **options), {"weight": w[f"eca{i}"]}))
        inputs = outputs
    dense = load(nnx.Linear(inputs, CLASSES, rngs=rngs), "dense")
    return nnx.Sequential(*layers, lambda x: x.mean((1, 2)), dense)


def _key():
    import jax

    return jax.random.key(0)
