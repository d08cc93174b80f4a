"""Dense layers: Linear, and an image flattened into one."""

from collections.abc import Callable
from typing import Any

from benchmarks.porting.layer import (
    Config,
    Fault,
    Layer,
    Lazy,
    dtypes,
    jax_port,
    keras_port,
    linen_port,
    nnx_port,
    rngs,
    torch_port,
)
from eca_multi.parity import normal

torch, nn, keras, linen, nnx, jax = map(Lazy, ("torch", "torch.nn", "keras", "flax.linen", "flax.nnx", "jax"))

LINEAR = Layer(
    "Linear",
    {
        "layout": "N I",
        "outputs": {"y": "N O"},
        "weights": {"w": normal("O I", 0.25), "b": "O"},
        "config": {"N": 6, "I": 16, "O": 16},
    },
    {
        "torch": torch_port(lambda c: nn.Linear(c["I"], c["O"]), {"weight": "w", "bias": "b"}),
        "keras": keras_port(lambda c: keras.layers.Dense(c["O"]), {"kernel": "w: O I -> I O", "bias": "b"}),
        "linen": linen_port(
            lambda c: linen.Dense(c["O"], **dtypes(c)), {"params/kernel": "w: O I -> I O", "params/bias": "b"}
        ),
        "nnx": nnx_port(
            lambda c: nnx.Linear(c["I"], c["O"], rngs=rngs(), **dtypes(c)), {"kernel": "w: O I -> I O", "bias": "b"}
        ),
        "jax": jax_port(lambda c: lambda inputs, weights: inputs["x"] @ weights["w"].T + weights["b"]),
    },
    [
        Fault(
            "square kernel not transposed",
            "y",
            "transposed kernel",
            {"keras": {"weights": {"kernel": "w", "bias": "b"}}, "nnx": {"weights": {"kernel": "w", "bias": "b"}}},
        ),
        Fault(
            "bias left out",
            "y",
            "missing bias",
            {"jax": {"build": lambda c: lambda inputs, weights: inputs["x"] @ weights["w"].T}},
        ),
    ],
)


def _flattened(order: str) -> Callable[[Config], Any]:
    """Return build(config) of a flattened image in a dense layer, in JAX and channels last."""

    def call(inputs: Any, weights: Any) -> Any:
        x = inputs["x"]
        x = x.transpose(0, 3, 1, 2) if order == "channels first" else x
        return x.reshape(len(x), -1) @ weights["w"].T + weights["b"]

    return lambda config: call


def _keras_flattened(order: str) -> Callable[[Config], Any]:
    def build(config: Config) -> Any:
        layers = keras.layers
        first = [layers.Permute((3, 1, 2))] if order == "channels first" else []
        return keras.Sequential([*first, layers.Flatten(data_format="channels_last"), layers.Dense(5, name="dense")])

    return build


FLATTEN = Layer(
    "Flatten and Linear",
    {
        "layout": "N C H W",
        "outputs": {"y": "N O"},
        "weights": {"w": normal("O F", 0.1), "b": "O"},
        "config": {"C": 4, "H": 3, "W": 5, "F": 60, "O": 5},
    },
    {
        "torch": torch_port(
            lambda c: nn.Sequential(nn.Flatten(), nn.Linear(c["F"], c["O"])), {"1.weight": "w", "1.bias": "b"}
        ),
        "keras": keras_port(
            _keras_flattened("channels first"), {"dense/kernel": "w: O F -> F O", "dense/bias": "b"}, layout="N H W C O"
        ),
        "jax": jax_port(_flattened("channels first"), layout="N H W C O"),
    },
    [
        Fault(
            "flattened with the channels last",
            "y",
            "layout",
            {"keras": {"build": _keras_flattened("as it is")}, "jax": {"build": _flattened("as it is")}},
        ),
    ],
)
