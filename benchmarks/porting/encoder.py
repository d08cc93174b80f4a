"""torch's encoder layer against the same layer built from the parts of Keras and Flax."""

from typing import Any

from benchmarks.porting.attention import kept
from benchmarks.porting.layer import Config, Fault, Layer, Lazy, dtypes, keras_port, linen_port, torch_port
from eca_multi.parity import normal
from eca_multi.parity.define.sources import Draw

torch, nn, keras, linen, jax = map(Lazy, ("torch", "torch.nn", "keras", "flax.linen", "jax"))

EPS = 1e-5


def _keras_encoder(eps: float = EPS, approximate: bool = False, first: bool = False, residual: bool = True) -> Any:
    """Return build(config) of the layer in Keras; the options are those that a port gets wrong."""

    def build(config: Config) -> Any:
        layers, width = keras.layers, config["C"]

        class Encoder(layers.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.attn = layers.MultiHeadAttention(config["h"], config["d"], name="attn")
                self.norm1 = layers.LayerNormalization(epsilon=EPS, name="norm1")
                self.norm2 = layers.LayerNormalization(epsilon=eps, name="norm2")
                self.fc1, self.fc2 = layers.Dense(config["E"], name="fc1"), layers.Dense(width, name="fc2")

            def call(self, x: Any, mask: Any) -> Any:
                gelu = keras.ops.gelu
                if first:
                    y = self.norm1(x)
                    x = x + self.attn(y, y, attention_mask=mask[:, None, :])
                    return x + self.fc2(gelu(self.fc1(self.norm2(x)), approximate=False))
                x = self.norm1((x if residual else 0.0) + self.attn(x, x, attention_mask=mask[:, None, :]))
                return self.norm2(x + self.fc2(gelu(self.fc1(x), approximate=approximate)))

        return Encoder()

    return build


def _linen_encoder(eps: float = EPS, approximate: bool = False, inverted: bool = False, relu: bool = False) -> Any:
    def build(config: Config) -> Any:
        class Encoder(linen.Module):
            @linen.compact
            def __call__(self, x: Any, mask: Any) -> Any:
                given = dtypes(config)
                keep = (~mask if inverted else mask)[:, None, None, :]
                attended = linen.MultiHeadDotProductAttention(config["h"], name="attn", **given)(x, mask=keep)
                norms = {"use_fast_variance": False, **given}
                x = linen.LayerNorm(EPS, name="norm1", **norms)(x + attended)
                inner = linen.Dense(config["E"], name="fc1", **given)(x)
                inner = jax.nn.relu(inner) if relu else jax.nn.gelu(inner, approximate=approximate)
                return linen.LayerNorm(eps, name="norm2", **norms)(
                    x + linen.Dense(config["C"], name="fc2", **given)(inner)
                )

        return Encoder()

    return build


def _names(prefix: str, out: str, kernel: str, scale: str, bias: str) -> dict[str, str]:
    """Return the map of a port that is made of parts: the names differ, the axes are Keras's and Flax's."""
    weights = {f"{prefix}attn/{out}/kernel": "wo", f"{prefix}attn/{out}/bias": "bo"}
    for name in ("query", "key", "value"):
        weights |= {f"{prefix}attn/{name}/kernel": f"w{name[0]}", f"{prefix}attn/{name}/bias": f"b{name[0]}"}
    for number in "12":
        weights[f"{prefix}fc{number}/{kernel}"] = f"w{number}: o i -> i o"
        weights[f"{prefix}fc{number}/bias"] = f"b{number}"
        weights[f"{prefix}norm{number}/{scale}"] = f"scale{number}"
        weights[f"{prefix}norm{number}/{bias}"] = f"shift{number}"
    return weights


_HEADS = normal("C h d", 0.3)
ENCODER = Layer(
    "TransformerEncoderLayer",
    {
        "layout": "N T C",
        "inputs": {"x": "N T C", "mask": Draw("N T", kept)},
        "weights": {
            **dict.fromkeys(("wq", "wk", "wv"), _HEADS),
            **dict.fromkeys(("bq", "bk", "bv"), normal("h d", 0.3)),
            "wo": normal("h d C", 0.3),
            "bo": normal("C", 0.3),
            "w1": normal("E C", 0.3),
            "b1": normal("E", 0.3),
            "w2": normal("C E", 0.3),
            "b2": normal("C", 0.3),
            **{f"scale{n}": normal("C", 0.3, 1.0) for n in "12"},
            **{f"shift{n}": normal("C", 0.3) for n in "12"},
        },
        "config": {"T": 7, "C": 12, "h": 3, "d": 4, "E": 20},
        "taps": ("attn", "norm1", "fc1", "fc2"),
    },
    {
        "torch": torch_port(
            lambda c: nn.TransformerEncoderLayer(
                c["C"], c["h"], c["E"], dropout=0.0, activation="gelu", batch_first=True
            ),
            {
                "self_attn.in_proj_weight": "wq wk wv: e h d -> (qkv h d) e",
                "self_attn.in_proj_bias": "bq bk bv: h d -> (qkv h d)",
                "self_attn.out_proj.weight": "wo: h d e -> e (h d)",
                "self_attn.out_proj.bias": "bo",
                **{f"linear{n}.weight": f"w{n}" for n in "12"},
                **{f"linear{n}.bias": f"b{n}" for n in "12"},
                **{f"norm{n}.weight": f"scale{n}" for n in "12"},
                **{f"norm{n}.bias": f"shift{n}" for n in "12"},
            },
            taps={"attn": "self_attn", "norm1": "norm1", "fc1": "linear1", "fc2": "linear2"},
            call=lambda self, layer, inputs, config: layer(inputs["x"], src_key_padding_mask=~inputs["mask"]),
        ),
        "keras": keras_port(
            _keras_encoder(),
            _names("", "attention_output", "kernel", "gamma", "beta"),
            taps={name: name for name in ("attn", "norm1", "fc1", "fc2")},
        ),
        "linen": linen_port(
            _linen_encoder(),
            _names("params/", "out", "kernel", "scale", "bias"),
            taps={name: name for name in ("attn", "norm1", "fc1", "fc2")},
        ),
    },
    [
        Fault(
            "tanh GELU",
            "fc2",
            "tanh GELU",
            {
                "keras": {"build": _keras_encoder(approximate=True)},
                "linen": {"build": _linen_encoder(approximate=True)},
            },
        ),
        Fault("ReLU for GELU", "fc2", "activation", {"linen": {"build": _linen_encoder(relu=True)}}),
        Fault("mask inverted", "attn", "mask inverted", {"linen": {"build": _linen_encoder(inverted=True)}}),
        Fault("norm first", "attn", "order of norm", {"keras": {"build": _keras_encoder(first=True)}}),
        Fault("residual forgotten", "norm1", "residual", {"keras": {"build": _keras_encoder(residual=False)}}),
        Fault("Keras's default eps in the last norm", "y", "eps", {"keras": {"build": _keras_encoder(eps=1e-3)}}),
    ],
)
