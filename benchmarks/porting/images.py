"""A stage of an image network: convolution, BatchNorm, SiLU, mean, dense layer; ports have the channels last."""

from typing import Any

from benchmarks.porting.layer import Config, Fault, Layer, Lazy, dtypes, keras_port, linen_port, torch_port
from eca_multi.parity import normal, tap, uniform

nn, keras, linen, jax, jnp = map(Lazy, ("torch.nn", "keras", "flax.linen", "jax", "jax.numpy"))

LAST = "N H W P Q C O"
TAPS = ("conv", "norm", "act")


def _torch_stage(config: Config) -> Any:
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(config["C"], config["O"], 3, stride=2, padding=1)
            self.norm, self.act = nn.BatchNorm2d(config["O"]), nn.SiLU()
            self.head = nn.Linear(config["O"], config["K"])

        def forward(self, x: Any) -> Any:
            return self.head(self.act(self.norm(self.conv(x))).mean((2, 3)))

    return Stage()


def _keras_stage(padding: str = "both", eps: float = 1e-5, axes: tuple[int, int] = (1, 2)) -> Any:
    """Return build(config) of the stage in Keras; the options are those that a port gets wrong."""

    def build(config: Config) -> Any:
        layers = keras.layers

        class Stage(layers.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.pad = layers.ZeroPadding2D(1 if padding == "both" else 0)
                way = "valid" if padding == "both" else "same"
                self.conv = layers.Conv2D(config["O"], 3, 2, padding=way, name="conv")
                self.norm = layers.BatchNormalization(epsilon=eps, name="norm")
                self.act = layers.Activation("silu", name="act")
                self.head = layers.Dense(config["K"], name="head")

            def call(self, x: Any) -> Any:
                return self.head(keras.ops.mean(self.act(self.norm(self.conv(self.pad(x)))), axes))

        return Stage()

    return build


def _linen_stage(padding: Any = ((1, 1), (1, 1)), act: str = "silu", bias: bool = True, head: str = "mean") -> Any:
    def silu(x: Any) -> Any:
        if act == "hard":
            return jax.nn.hard_silu(x)
        gate = jax.nn.sigmoid(x)
        return x * (jax.lax.stop_gradient(gate) if act == "detached" else gate)

    def build(config: Config) -> Any:
        class Stage(linen.Module):
            @linen.compact
            def __call__(self, x: Any) -> Any:
                given = dtypes(config)
                x = linen.Conv(config["O"], (3, 3), (2, 2), padding=padding, name="conv", **given)(x)
                x = tap("norm", linen.BatchNorm(True, epsilon=1e-5, name="norm", **given)(x))
                x = tap("act", silu(x))
                x = x.max((1, 2)) if head == "max" else x.mean((1, 2))
                return linen.Dense(config["K"], name="head", **given)(x)

        return Stage()

    return build


def _names(prefix: str, norm: dict[str, str], flip: str = "") -> dict[str, str]:
    return {
        f"{prefix}conv/kernel": f"kernel: O C kh kw -> {flip or 'kh kw'} C O",
        f"{prefix}conv/bias": "cb",
        **norm,
        f"{prefix}head/kernel": "w: K O -> O K",
        f"{prefix}head/bias": "b",
    }


_KERAS_NORM = {
    "norm/gamma": "scale", "norm/beta": "shift", "norm/moving_mean": "mean", "norm/moving_variance": "var",
}  # fmt: skip
_LINEN_NORM = {
    "params/norm/scale": "scale", "params/norm/bias": "shift",
    "batch_stats/norm/mean": "mean", "batch_stats/norm/var": "var",
}  # fmt: skip
STAGE = Layer(
    "Stage of an image network",
    {
        "layout": "N C H W",
        "outputs": {"y": "N K"},
        "weights": {
            "kernel": normal("O C 3 3", 0.2),
            "cb": normal("O", 0.3),
            "scale": normal("O", 0.3, 1.0),
            "shift": normal("O", 0.3),
            "w": normal("K O", 0.35),
            "b": normal("K", 0.3),
        },
        "state": {"mean": normal("O", 0.3), "var": uniform("O", 0.02, 0.1)},
        "config": {"C": 5, "O": 8, "K": 3, "H": 8, "W": 6, "P": 4, "Q": 3},
        "taps": {name: "N O P Q" for name in TAPS},
    },
    {
        "torch": torch_port(
            _torch_stage,
            {
                "conv.weight": "kernel",
                "conv.bias": "cb",
                "norm.weight": "scale",
                "norm.bias": "shift",
                "norm.running_mean": "mean",
                "norm.running_var": "var",
                "norm.num_batches_tracked": None,
                "head.weight": "w",
                "head.bias": "b",
            },
            taps={name: name for name in TAPS},
        ),
        "keras": keras_port(_keras_stage(), _names("", _KERAS_NORM), layout=LAST, taps={name: name for name in TAPS}),
        "linen": linen_port(_linen_stage(), _names("params/", _LINEN_NORM), layout=LAST, taps={"conv": "conv"}),
    },
    [
        Fault(
            "SAME for padding=1",
            "conv",
            "SAME padding",
            {
                "keras": {"build": _keras_stage(padding="same")},
                "linen": {"build": _linen_stage(padding="SAME")},
            },
        ),
        Fault(
            "rows and columns of the kernel swapped",
            "conv",
            "transposed kernel",
            {"linen": {"weights": _names("params/", _LINEN_NORM, "kw kh")}},
        ),
        Fault("Keras's default eps", "norm", "eps", {"keras": {"build": _keras_stage(eps=1e-3)}}),
        Fault("hard swish", "act", "hard swish", {"linen": {"build": _linen_stage(act="hard")}}),
        Fault("gate without a gradient", "d_norm", "detached gate", {"linen": {"build": _linen_stage(act="detached")}}),
        Fault("maximum for mean", "y", "pooling", {"linen": {"build": _linen_stage(head="max")}}),
    ],
)
