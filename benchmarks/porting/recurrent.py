"""Recurrent layers: LSTM, GRU, the simple one, and a bidirectional LSTM."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.porting.layer import (
    Config,
    Fault,
    Layer,
    Lazy,
    dtypes,
    keras_port,
    linen_port,
    nnx_port,
    rngs,
    torch_port,
)
from eca_multi.parity import normal

torch, nn, keras, linen, nnx, jax = map(Lazy, ("torch", "torch.nn", "keras", "flax.linen", "flax.nnx", "jax"))


def _spec(gates: int, directions: tuple[str, ...] = ("",), outputs: str = "N T U") -> dict[str, Any]:
    """Return a specification with torch's fused weights."""
    weights: dict[str, Any] = {}
    for suffix in directions:
        weights |= {f"wi{suffix}": normal("G C", 0.35), f"wh{suffix}": normal("G U", 0.4)}
        weights |= {f"bi{suffix}": normal("G", 0.3), f"bh{suffix}": normal("G", 0.3)}
    return {
        "layout": "N T C",
        "outputs": {"y": outputs},
        "weights": weights,
        "config": {"T": 6, "C": 7, "U": 5, "G": 5 * gates, "B": 10},
    }


def _first(layer: Any, inputs: Mapping[str, Any]) -> Any:
    return layer(inputs["x"])[0]


def _torch(name: str, directions: Mapping[str, str] | None = None, **options: Any) -> Any:
    weights = {}
    for suffix, ours in (directions or {"": ""}).items():
        for torchs, canonical in (("weight_ih", "wi"), ("weight_hh", "wh"), ("bias_ih", "bi"), ("bias_hh", "bh")):
            weights[f"{torchs}_l0{suffix}"] = f"{canonical}{ours}"
    return torch_port(
        lambda c: getattr(nn, name)(c["C"], c["U"], batch_first=True, **options),
        weights,
        call=lambda self, layer, inputs, config: _first(layer, inputs),
    )


def _keras(name: str, **options: Any) -> Callable[[Config], Any]:
    return lambda c: getattr(keras.layers, name)(c["U"], return_sequences=True, **options)


# --- LSTM: torch's and Keras's gates are i f g o; Flax has a layer for each gate


def _keras_lstm(place: str = "lstm_cell", suffix: str = "", order: str = "") -> dict[str, str]:
    sized = f", {order}" if order else ", gate=4"
    return {
        f"{place}/kernel": f"wi{suffix}: (gate u) c -> c (gate u){sized}",
        f"{place}/recurrent_kernel": f"wh{suffix}: (gate u) v -> v (gate u){sized}",
        f"{place}/bias": f"bi{suffix} + bh{suffix}: (gate u) -> (gate u){sized}",
    }


def _flax_lstm(place: str, join: str, suffix: str = "", gates: str = "ifgo", reserved: str = "") -> dict[str, str]:
    weights = {}
    for number, gate in enumerate(gates):
        name = f"{gate}{reserved}" if f"i{gate}" == "if" else gate
        inner = f"{place}{join}i{name}{join}kernel", f"{place}{join}h{gate}{join}kernel"
        weights[inner[0]] = f"wi{suffix}: (gate u) c -> c u, gate[{number}], gate=4"
        weights[inner[1]] = f"wh{suffix}: (gate u) v -> v u, gate[{number}], gate=4"
        weights[f"{place}{join}h{gate}{join}bias"] = f"bi{suffix} + bh{suffix}: (gate u) -> u, gate[{number}], gate=4"
    return weights


def _linen_rnn(cell: str) -> Callable[[Config], Any]:
    return lambda c: linen.RNN(getattr(linen, cell)(c["U"], **dtypes(c)))


_SWAPPED = "gate(i f g o -> i f o g)"
LSTM = Layer(
    "LSTM",
    _spec(4),
    {
        "torch": _torch("LSTM"),
        "keras": keras_port(_keras("LSTM"), _keras_lstm()),
        "linen": linen_port(_linen_rnn("LSTMCell"), _flax_lstm("params/cell", "/")),
        "nnx": nnx_port(
            lambda c: nnx.RNN(nnx.LSTMCell(c["C"], c["U"], rngs=rngs(), **dtypes(c))),
            {**_flax_lstm("cell", ".", reserved="_"), "rngs.count": None, "rngs.key": None},
        ),
    },
    [
        Fault(
            "gates taken as i f o g",
            "y",
            "order of gates",
            {
                "keras": {"weights": _keras_lstm(order=_SWAPPED)},
                "linen": {"weights": _flax_lstm("params/cell", "/", gates="ifog")},
            },
        ),
        Fault(
            "recurrent kernel transposed",
            "y",
            "transposed kernel",
            {
                "keras": {
                    "weights": {
                        **_keras_lstm(),
                        "lstm_cell/recurrent_kernel": "wh: (gate u) v -> u (gate v), gate=4",
                    }
                }
            },
        ),
        Fault(
            "hard sigmoid, as Keras 2 had it",
            "y",
            "activation",
            {"keras": {"build": _keras("LSTM", recurrent_activation="hard_sigmoid")}},
        ),
        Fault(
            "the sequence runs backwards",
            "y",
            "direction",
            {"keras": {"build": _keras("LSTM", go_backwards=True)}},
        ),
    ],
)

# --- GRU: torch's gates are r z n, Keras's z r n; torch resets after the product


def _keras_gru(order: str = "gate(r z n -> z r n)") -> dict[str, str]:
    return {
        "gru_cell/kernel": f"wi: (gate u) c -> c (gate u), {order}",
        "gru_cell/recurrent_kernel": f"wh: (gate u) v -> v (gate u), {order}",
        "gru_cell/bias": f"bi bh: (gate u) -> two (gate u), {order}",
    }


def _linen_gru(gates: str = "rzn") -> dict[str, str]:
    weights = {}
    for number, gate in enumerate(gates):
        at = f"gate[{number}], gate=3"
        weights[f"params/cell/i{gate}/kernel"] = f"wi: (gate u) c -> c u, {at}"
        weights[f"params/cell/h{gate}/kernel"] = f"wh: (gate u) v -> v u, {at}"
        bias = "bi" if gate == "n" else "bi + bh"
        weights[f"params/cell/i{gate}/bias"] = f"{bias}: (gate u) -> u, {at}"
    return {**weights, "params/cell/hn/bias": "bh: (gate u) -> u, gate[2], gate=3"}


GRU = Layer(
    "GRU",
    _spec(3),
    {
        "torch": _torch("GRU"),
        "keras": keras_port(_keras("GRU"), _keras_gru()),
        "linen": linen_port(_linen_rnn("GRUCell"), _linen_gru()),
    },
    [
        Fault(
            "torch's order of gates in Keras",
            "y",
            "order of gates",
            {"keras": {"weights": _keras_gru("gate=3")}, "linen": {"weights": _linen_gru("zrn")}},
        ),
        Fault(
            "input and recurrent biases exchanged",
            "y",
            "recurrent bias",
            {
                "keras": {
                    "weights": {
                        **_keras_gru(),
                        "gru_cell/bias": "bh bi: (gate u) -> two (gate u), gate(r z n -> z r n)",
                    }
                }
            },
        ),
        Fault(
            "reset before the product",
            "y",
            "reset gate",
            {
                "keras": {
                    "build": _keras("GRU", reset_after=False),
                    "weights": {
                        **_keras_gru(),
                        "gru_cell/bias": "bi + bh: (gate u) -> (gate u), gate(r z n -> z r n)",
                    },
                }
            },
        ),
    ],
)

SIMPLE = Layer(
    "RNN",
    _spec(1),
    {
        "torch": _torch("RNN"),
        "keras": keras_port(
            _keras("SimpleRNN"),
            {
                "simple_rnn_cell/kernel": "wi: u c -> c u",
                "simple_rnn_cell/recurrent_kernel": "wh: u v -> v u",
                "simple_rnn_cell/bias": "bi + bh",
            },
        ),
    },
    [
        Fault(
            "recurrent kernel not transposed",
            "y",
            "transposed kernel",
            {
                "keras": {
                    "weights": {
                        "simple_rnn_cell/kernel": "wi: u c -> c u",
                        "simple_rnn_cell/recurrent_kernel": "wh",
                        "simple_rnn_cell/bias": "bi + bh",
                    }
                }
            },
        ),
        Fault("ReLU for tanh", "y", "activation", {"keras": {"build": _keras("SimpleRNN", activation="relu")}}),
    ],
)

# --- both directions


def _keras_both(c: Config) -> Any:
    return keras.layers.Bidirectional(keras.layers.LSTM(c["U"], return_sequences=True, name="lstm"))


def _linen_both(keep: bool) -> Callable[[Config], Any]:
    def build(c: Config) -> Any:
        class Both(linen.Module):
            @linen.compact
            def __call__(self, x: Any) -> Any:
                there = linen.RNN(linen.LSTMCell(c["U"], name="there", **dtypes(c)))
                back = linen.RNN(linen.LSTMCell(c["U"], name="back", **dtypes(c)), reverse=True, keep_order=keep)
                return jax.numpy.concatenate([there(x), back(x)], -1)

        return Both()

    return build


BIDIRECTIONAL = Layer(
    "Bidirectional LSTM",
    _spec(4, ("", "_back"), "N T B"),
    {
        "torch": _torch("LSTM", {"": "", "_reverse": "_back"}, bidirectional=True),
        "keras": keras_port(
            _keras_both,
            {**_keras_lstm("forward_lstm/lstm_cell"), **_keras_lstm("backward_lstm/lstm_cell", "_back")},
        ),
        "linen": linen_port(
            _linen_both(True), {**_flax_lstm("params/there", "/"), **_flax_lstm("params/back", "/", "_back")}
        ),
    },
    [
        Fault(
            "outputs of the way back not reversed, as Flax's default has it",
            "y",
            "not reversed back",
            {"linen": {"build": _linen_both(False)}},
        ),
        Fault(
            "directions exchanged",
            "y",
            "order of directions",
            {
                "keras": {
                    "weights": {
                        **_keras_lstm("forward_lstm/lstm_cell", "_back"),
                        **_keras_lstm("backward_lstm/lstm_cell"),
                    }
                }
            },
        ),
    ],
)
