"""Blocks of several layers, each with a tap, so that a run must say which of them is wrong."""

from collections.abc import Callable
from typing import Any

from benchmarks.porting.layer import Config, Fault, Layer, Lazy, dtypes, keras_port, linen_port, torch_port
from eca_multi.parity import normal, tap

torch, nn, keras, linen, jax, jnp = map(Lazy, ("torch", "torch.nn", "keras", "flax.linen", "jax", "jax.numpy"))


def _torch_mlp(config: Config) -> Any:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(config["C"])
            self.fc1, self.fc2 = nn.Linear(config["C"], config["E"]), nn.Linear(config["E"], config["C"])
            self.act = nn.GELU()

        def forward(self, x: Any) -> Any:
            return x + self.fc2(self.act(self.fc1(self.norm(x))))

    return Block()


def _keras_mlp(eps: float = 1e-5, approximate: bool = False, residual: str = "x") -> Callable[[Config], Any]:
    def build(config: Config) -> Any:
        layers = keras.layers

        class Block(layers.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.norm = layers.LayerNormalization(epsilon=eps, name="norm")
                self.fc1, self.fc2 = layers.Dense(config["E"], name="fc1"), layers.Dense(config["C"], name="fc2")
                self.act = layers.Activation(lambda x: keras.ops.gelu(x, approximate=approximate), name="act")

            def call(self, x: Any) -> Any:
                normed = self.norm(x)
                return (normed if residual == "normed" else x) + self.fc2(self.act(self.fc1(normed)))

        return Block()

    return build


def _linen_mlp(eps: float = 1e-5, approximate: bool = False, residual: str = "x") -> Callable[[Config], Any]:
    def build(config: Config) -> Any:
        class Block(linen.Module):
            @linen.compact
            def __call__(self, x: Any) -> Any:
                normed = linen.LayerNorm(epsilon=eps, use_fast_variance=False, name="norm", **dtypes(config))(x)
                inner = tap(
                    "act", jax.nn.gelu(linen.Dense(config["E"], name="fc1", **dtypes(config))(normed), approximate)
                )
                left = {"x": x, "normed": normed, "none": 0.0}[residual]
                return left + linen.Dense(config["C"], name="fc2", **dtypes(config))(inner)

        return Block()

    return build


_MLP_TAPS = ("norm", "fc1", "act", "fc2")
_SAME_TAPS = {name: name for name in _MLP_TAPS}
_MLP_WEIGHTS = {"norm": ("scale", "bias"), "fc1": ("w1", "b1"), "fc2": ("w2", "b2")}
MLP = Layer(
    "MLP block",
    {
        "layout": "N L C",
        "weights": {
            "scale": normal("C", 0.5, 1.0),
            "bias": normal("C", 0.3),
            "w1": normal("E C", 0.3),
            "b1": normal("E", 0.3),
            "w2": normal("C E", 0.25),
            "b2": normal("C", 0.3),
        },
        "config": {"L": 7, "C": 12, "E": 12},
        "taps": _MLP_TAPS,
    },
    {
        "torch": torch_port(
            _torch_mlp,
            {
                "norm.weight": "scale",
                "norm.bias": "bias",
                "fc1.weight": "w1",
                "fc1.bias": "b1",
                "fc2.weight": "w2",
                "fc2.bias": "b2",
            },
            taps=_SAME_TAPS,
        ),
        "keras": keras_port(
            _keras_mlp(),
            {
                "norm/gamma": "scale",
                "norm/beta": "bias",
                "fc1/kernel": "w1: E C -> C E",
                "fc1/bias": "b1",
                "fc2/kernel": "w2: C E -> E C",
                "fc2/bias": "b2",
            },
            taps=_SAME_TAPS,
        ),
        "linen": linen_port(
            _linen_mlp(),
            {
                "params/norm/scale": "scale",
                "params/norm/bias": "bias",
                "params/fc1/kernel": "w1: E C -> C E",
                "params/fc1/bias": "b1",
                "params/fc2/kernel": "w2: C E -> E C",
                "params/fc2/bias": "b2",
            },
            taps={"norm": "norm", "fc1": "fc1", "fc2": "fc2"},
        ),
    },
    [
        Fault(
            "tanh GELU",
            "act",
            "tanh GELU",
            {"keras": {"build": _keras_mlp(approximate=True)}, "linen": {"build": _linen_mlp(approximate=True)}},
        ),
        Fault("eps of 1e-1", "norm", "eps", {"linen": {"build": _linen_mlp(eps=1e-1)}}),
        Fault("Keras's default eps", "norm", "eps", {"keras": {"build": _keras_mlp(eps=1e-3)}}),
        Fault(
            "residual of the normalised x",
            "y",
            "residual",
            {"keras": {"build": _keras_mlp(residual="normed")}, "linen": {"build": _linen_mlp(residual="normed")}},
        ),
        Fault("residual forgotten", "y", "residual", {"linen": {"build": _linen_mlp(residual="none")}}),
        Fault(
            "square kernel of the second layer not transposed",
            "fc2",
            "transposed kernel",
            {
                "keras": {
                    "weights": {
                        "norm/gamma": "scale",
                        "norm/beta": "bias",
                        "fc1/kernel": "w1: E C -> C E",
                        "fc1/bias": "b1",
                        "fc2/kernel": "w2",
                        "fc2/bias": "b2",
                    }
                }
            },
        ),
    ],
)
