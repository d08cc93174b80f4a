"""The file that `eca-multi parity init` writes: adapters that work, for the user to change."""

from collections.abc import Sequence

from .axes import SpecError

_HEAD = '''"""Is my layer the same in every framework? Run: eca-multi parity {file}

Change the layer in each `build`, the names and axes in each `weights`, and `SPEC` at the end. A worker loads this file
and imports only the framework that it runs, so import frameworks within the methods.
"""

from eca_multi.parity import {imports}, Spec
'''

_CLASSES = {
    "torch": """

class Torch(TorchAdapter):
    layout = "NCHW"
    weights = {"linear.weight": "kernel: C F -> F C", "linear.bias": "bias"}

    def build(self, config):
        import torch

        class Layer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = torch.nn.Linear(config["C"], config["F"])

            def forward(self, x):
                return torch.sigmoid(self.linear(x.mean((2, 3))))

        return Layer()
""",
    "keras": """

class Keras(KerasAdapter):
    layout = "NHWC"
    weights = {"dense/kernel": "kernel", "dense/bias": "bias"}

    def build(self, config):
        import keras

        layers = keras.layers
        return keras.Sequential(
            [layers.GlobalAveragePooling2D(), layers.Dense(config["F"], "sigmoid", name="dense")], name="layer"
        )
""",
    "linen": """

class Linen(LinenAdapter):
    layout = "NHWC"
    weights = {"params/Dense_0/kernel": "kernel", "params/Dense_0/bias": "bias"}

    def build(self, config):
        from flax import linen as nn

        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.sigmoid(nn.Dense(config["F"])(x.mean((1, 2))))

        return Layer()
""",
    "nnx": """

class Nnx(NnxAdapter):
    layout = "NHWC"
    weights = {"linear.kernel": "kernel", "linear.bias": "bias"}

    def build(self, config):
        from flax import nnx

        class Layer(nnx.Module):
            def __init__(self, rngs):
                self.linear = nnx.Linear(config["C"], config["F"], rngs=rngs)

            def __call__(self, x):
                return nnx.sigmoid(self.linear(x.mean((1, 2))))

        return Layer(nnx.Rngs(0))
""",
    "jax": """

class Jax(JaxAdapter):
    def build(self, config):
        import jax

        return lambda inputs, weights: jax.nn.sigmoid(
            inputs["x"].mean((1, 2)) @ weights["kernel"] + weights["bias"]
        )
""",
    "numpy": """

class Numpy(NumpyAdapter):
    def build(self, config):
        import numpy as np

        return lambda inputs, weights: 1 / (
            1 + np.exp(-(inputs["x"].mean((1, 2)) @ weights["kernel"] + weights["bias"]))
        )
""",
}

_SPEC = """

SPEC = Spec(
    "MyLayer",
    layout="NHWC",
    weights={{"kernel": "C F", "bias": "F"}},
    outputs={{"y": "N F"}},
    config={{"F": 4}},
    runners={{{runners}}},
    reference={reference},  # run in float64: the oracle
)
"""


def scaffold(frameworks: Sequence[str], file: str = "parity_my_layer.py") -> str:
    """Return the text of a specification with an adapter for each framework.

    Raises:
        SpecError: If a framework is unknown, or none of them can be the reference.
    """
    names = list(dict.fromkeys({"flax": "linen", "tensorflow": "keras"}.get(name, name) for name in frameworks))
    for name in names:
        if name not in _CLASSES:
            raise SpecError(f"init knows {', '.join(_CLASSES)}. Received: {name!r}.")
    written = names if {"torch", "numpy"} & set(names) else [*names, "numpy"]  # the reference is one of these two
    imports = ", ".join(sorted(f"{name.capitalize()}Adapter" for name in written))
    runners = ", ".join(f'"{name}": {name.capitalize()}' for name in names)
    reference = "Torch" if "torch" in written else "Numpy"
    classes = "".join(_CLASSES[name] for name in written)
    return _HEAD.format(imports=imports, file=file) + classes + _SPEC.format(runners=runners, reference=reference)
