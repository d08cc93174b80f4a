"""Layers as they are shipped, with fused, stacked, reordered or reversed weights: a map fits, and a wrong one fails."""
# ruff: noqa: RUF012  (an adapter declares its weight map as a class attribute, as users do)

import numpy as np
import pytest

from eca_multi.parity import Case, KerasAdapter, NnxAdapter, NumpyAdapter, Spec, TorchAdapter, normal
from eca_multi.parity.define.tensor import labelled
from tests.support.everything import engine, job_of, variant


def results(adapter, spec):
    return {name: tensor.values for name, tensor in labelled(engine(adapter).evaluate(job_of(spec))).items()}


def differences(spec, one, other):
    """The largest difference of each result that both have, relative to its size; a key's bias has gradient zero."""
    first, second = results(one, spec), results(other, spec)
    shared = [name for name in first if name in second]
    assert "y" in shared
    return {name: np.abs(first[name] - second[name]).max() / max(np.abs(first[name]).max(), 0.1) for name in shared}


def spec_of(layout, weights, **config):
    drawn = {name: normal(axes, 0.4) for name, axes in weights.items()}
    return Spec("Layer", layout, drawn, {}, NumpyAdapter, config=config, cases=(Case("only"),))


def check(spec, one, other, wrong):
    """Two layers agree by their maps, to the last gradient; by the wrong map of the second they do not."""
    found = differences(spec, one, other)
    assert max(found.values()) < 1e-4, found
    assert differences(spec, one, variant(other, weights={**other.weights, **wrong}))["y"] > 1e-2


class TorchAttention(TorchAdapter):
    weights = {
        "in_proj_weight": "wq wk wv: e h d -> (qkv h d) e",
        "in_proj_bias": "bq bk bv: h d -> (qkv h d)",
        "out_proj.weight": "wo: h d e -> e (h d)",
        "out_proj.bias": "bo",
    }

    def build(self, config):
        import torch

        return torch.nn.MultiheadAttention(config["C"], config["h"], batch_first=True)

    def call(self, layer, inputs, config):
        return layer(*[inputs["x"]] * 3, need_weights=False)[0]


class NnxAttention(NnxAdapter):
    weights = {
        **{f"{part}.{kind}": f"{short}{part[0]}" for part in ("query", "key", "value") for kind, short in
           (("kernel", "w"), ("bias", "b"))},
        "out.kernel": "wo",
        "out.bias": "bo",
    }  # fmt: skip

    def build(self, config):
        from flax import nnx

        return nnx.MultiHeadAttention(config["h"], config["C"], decode=False, rngs=nnx.Rngs(0))

    def call(self, layer, inputs, config):
        return layer(inputs["x"])


ATTENTION = spec_of(
    "N L C",
    {
        **dict.fromkeys(("wq", "wk", "wv"), "C h D"),
        **dict.fromkeys(("bq", "bk", "bv"), "h D"),
        "wo": "h D C",
        "bo": "C",
    },
    h=3,
    D=4,
    L=5,
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"in_proj_weight": "wk wq wv: e h d -> (qkv h d) e"},
        {"in_proj_weight": "wq wk wv: e h d -> (qkv d h) e"},
        {"out_proj.weight": "wo: h d e -> e (d h)"},
    ],
    ids=["key before query", "heads inside", "heads of the output inside"],
)
def test_fused_attention_against_separate_projections(wrong):
    check(ATTENTION, NnxAttention, TorchAttention, wrong)


class TorchLSTM(TorchAdapter):
    """Torch's gates are i f g o, and it adds two biases."""

    weights = {
        "weight_ih_l0": "w: c (gate u) -> (gate u) c, gate(i f o g -> i f g o)",
        "weight_hh_l0": "r: v (gate u) -> (gate u) v, gate(i f o g -> i f g o)",
        "bias_ih_l0": "b: (gate u) -> (gate u), gate(i f o g -> i f g o)",
        "bias_hh_l0": "= 0",
    }

    def build(self, config):
        import torch

        return torch.nn.LSTM(config["C"], config["U"], batch_first=True)

    def call(self, layer, inputs, config):
        return layer(inputs["x"])[0]


class NumpyLSTM(NumpyAdapter):
    """An LSTM whose gates are i f o g, by its formula."""

    weights = {"w": "w", "r": "r", "b": "b"}

    def build(self, config):
        def sigmoid(a):
            return 1 / (1 + np.exp(-a))

        def layer(inputs, weights):
            state = cell = np.zeros((config["N"], config["U"]))
            states = []
            for x in np.moveaxis(inputs["x"], 1, 0):
                i, f, o, g = np.split(x @ weights["w"] + state @ weights["r"] + weights["b"], 4, axis=1)
                cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
                state = sigmoid(o) * np.tanh(cell)
                states.append(state)
            return np.stack(states, 1)

        return layer


LSTM = Spec(
    "LSTM", "N L C", {"w": normal("C G", 0.4), "r": normal("U G", 0.4), "b": normal("G", 0.4)}, {}, NumpyAdapter,
    config={"U": 3, "G": 12, "L": 5}, outputs={"y": "N L U"}, cases=(Case("only"),),
)  # fmt: skip


def test_the_gates_of_an_lstm_in_another_order():
    check(LSTM, NumpyLSTM, TorchLSTM, {"weight_ih_l0": "w: c (gate u) -> (gate u) c, gate=4"})


class TorchGRU(TorchAdapter):
    """Torch's gates are r z n, and each has two biases."""

    weights = {
        "weight_ih_l0": "w: c (gate u) -> (gate u) c, gate(z r n -> r z n)",
        "weight_hh_l0": "r: v (gate u) -> (gate u) v, gate(z r n -> r z n)",
        **{f"bias_{part}_l0": f"b: two (gate u) -> (gate u), two[{i}], gate(z r n -> r z n)"
           for i, part in enumerate(("ih", "hh"))},
    }  # fmt: skip

    def build(self, config):
        import torch

        return torch.nn.GRU(config["C"], config["U"], batch_first=True)

    def call(self, layer, inputs, config):
        return layer(inputs["x"])[0]


class KerasGRU(KerasAdapter):
    weights = {"gru_cell/kernel": "w", "gru_cell/recurrent_kernel": "r", "gru_cell/bias": "b"}

    def build(self, config):
        import keras

        return keras.layers.GRU(config["U"], return_sequences=True)


GRU = Spec(
    "GRU", "N L C", {"w": normal("C G", 0.4), "r": normal("U G", 0.4), "b": normal("2 G", 0.4)}, {}, NumpyAdapter,
    config={"U": 3, "G": 9, "L": 5}, outputs={"y": "N L U"}, cases=(Case("only"),),
)  # fmt: skip


@pytest.mark.keras
def test_the_gates_and_both_biases_of_a_gru():
    biases = {f"bias_{part}_l0": f"b: two (gate u) -> (gate u), two[{i}], gate(z r n -> r z n)"
              for i, part in enumerate(("hh", "ih"))}  # fmt: skip
    check(GRU, KerasGRU, TorchGRU, biases)
    check(GRU, KerasGRU, TorchGRU, {"weight_ih_l0": "w: c gu -> gu c"})


class TorchTransposed(TorchAdapter):
    layout = "N C O *"
    weights = {"weight": "w", "bias": "b"}

    def build(self, config):
        import torch

        return torch.nn.ConvTranspose2d(config["C"], config["O"], (3, 2), stride=2)


class NnxTransposed(NnxAdapter):
    """Flax does not reverse the kernel of a transposed convolution, and torch does."""

    weights = {"kernel": "w: i o kh kw -> kh kw i o, flip(kh kw)", "bias": "b"}

    def build(self, config):
        from flax import nnx

        return nnx.ConvTranspose(config["C"], config["O"], (3, 2), strides=2, padding="VALID", rngs=nnx.Rngs(0))


TRANSPOSED = Spec(
    "Transposed", "N H W C", {"w": normal("C O 3 2", 0.4), "b": "O"}, {}, NumpyAdapter,
    config={"O": 4, "P": 15, "Q": 10}, outputs={"y": "N P Q O"}, cases=(Case("only"),),
)  # fmt: skip


@pytest.mark.parametrize("axes", ["", ", flip(kh)", ", flip(kw)"], ids=["not", "one", "the other"])
def test_the_kernel_of_a_transposed_convolution_is_reversed(axes):
    check(TRANSPOSED, TorchTransposed, NnxTransposed, {"kernel": f"w: i o kh kw -> kh kw i o{axes}"})
