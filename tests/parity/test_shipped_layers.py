"""Layers as they are shipped: states in and out, lengths, masks, nested outputs, tied weights, a counter."""
# ruff: noqa: RUF012  (an adapter declares its weight map as a class attribute, as users do)

from collections import namedtuple
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from eca_multi.parity import (
    Case,
    JaxAdapter,
    KerasAdapter,
    LinenAdapter,
    NnxAdapter,
    Spec,
    SpecError,
    TorchAdapter,
    assert_match,
    booleans,
    integers,
    normal,
)
from eca_multi.parity.budget.torch_reference import TorchReference
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.execute.cotangents import cotangents_for
from eca_multi.parity.execute.messages import Do
from eca_multi.parity.execute.tasks import Task, rounded
from eca_multi.parity.judge.verdicts import Judge
from tests.support.everything import engine, job_of, name_of, variant


@cache
def solved(spec_name, dtype):
    """Return a specification's job with cotangents, and the solution of its PyTorch reference."""
    spec = SPECS[spec_name]
    reference = TorchReference(spec.reference())
    job = job_of(spec, dtype)
    shapes = {q: np.asarray(a) for q, a in reference.exact(replace(job, gradients=False)).items()}
    tensors = {q: type("Array", (), {"values": a})() for q, a in shapes.items()}
    job = replace(job, cotangents=rounded({**cotangents_for(job, tensors), **job.cotangents}, dtype))
    return job, reference.solve(job)


def wrong_of(adapter, spec_name, dtype="float32"):
    """Return the tensors that do not agree with the reference, in this process."""
    job, solution = solved(spec_name, dtype)
    task = Task("", Do.EVALUATE, job.case, job, None)
    cells = Judge(BASE, "stochastic").cells("it", task, engine(adapter).evaluate(job), solution)
    return [cell.tensor for cell in cells if not cell.verdict.green]


# --- a GRU with a first and a last state, over padded sequences


class GruTorch(TorchAdapter):
    weights = {"weight_ih_l0": "wi", "weight_hh_l0": "wh", "bias_ih_l0": "bi", "bias_hh_l0": "bh"}

    def build(self, config):
        import torch

        return torch.nn.GRU(config["F"], config["U"], batch_first=True)

    def call(self, layer, inputs, config):
        from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

        lengths = inputs["lengths"].long()
        packed = pack_padded_sequence(inputs["x"], lengths, batch_first=True, enforce_sorted=False)
        y, h = layer(packed, inputs["h0"][None])
        return pad_packed_sequence(y, batch_first=True, total_length=config["T"])[0], (h[0],)


class GruJax(JaxAdapter):
    ignores_lengths = False

    def build(self, config):
        import jax
        import jax.numpy as jnp

        def gru(inputs, weights):
            gates = inputs["x"] @ weights["wi"].T + weights["bi"]

            def step(h, now):
                (r, z, n), position = jnp.split(now[0], 3, -1), now[1]
                rh, zh, nh = jnp.split(h @ weights["wh"].T + weights["bh"], 3, -1)
                z = jax.nn.sigmoid(z + zh)
                new = (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + rh) * nh) + z * h
                is_there = (position < inputs["lengths"])[:, None] | self.ignores_lengths
                return jnp.where(is_there, new, h), jnp.where(is_there, new, 0)

            h, y = jax.lax.scan(step, inputs["h0"], (gates.transpose(1, 0, 2), jnp.arange(config["T"])))
            return {"state": (h,), "y": y.transpose(1, 0, 2)}  # the name of the state's part is "state.0"

        return gru


GRU = Spec(
    "GRU",
    "N T F",
    {"wi": normal("15 F", 0.4), "wh": normal("15 U", 0.4), "bi": normal("15", 0.4), "bh": normal("15", 0.4)},
    {},
    GruTorch,
    inputs={"x": "N T F", "h0": "N U", "lengths": integers("N", 2, 6)},
    outputs={"y": "N T U", "state.0": ""},
    config={"N": 3, "T": 7, "F": 4, "U": 5},
    cases=(Case("only"),),
)


@pytest.mark.parametrize("adapter", [GruTorch, GruJax], ids=name_of)
def test_a_recurrent_layer_with_states_and_lengths_agrees(adapter):
    assert wrong_of(adapter, "gru") == []


def test_lengths_that_are_ignored_are_found():
    assert "state.0" in wrong_of(variant(GruJax, ignores_lengths=True), "gru")


# --- cross attention with a mask of the memory's padding


class CrossTorch(TorchAdapter):
    weights = {
        "in_proj_weight": "wq wk wv: o e -> (qkv o) e",
        "out_proj.weight": "wo",
        "in_proj_bias": "= 0",
        "out_proj.bias": "= 0",
    }

    def build(self, config):
        import torch

        return torch.nn.MultiheadAttention(config["E"], 2, batch_first=True)

    def call(self, layer, inputs, config):
        return layer(inputs["x"], inputs["memory"], inputs["memory"], key_padding_mask=~inputs["mask"])


Attended = namedtuple("Attended", ["y", "weights"])


class CrossJax(JaxAdapter):
    inverts_mask = False

    def build(self, config):
        import jax
        import jax.numpy as jnp

        def heads(x):
            return x.reshape(*x.shape[:2], 2, -1)

        def attend(inputs, weights):
            x, memory = inputs["x"], inputs["memory"]
            q, k, v = heads(x @ weights["wq"].T), heads(memory @ weights["wk"].T), heads(memory @ weights["wv"].T)
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]).astype("float32")
            mask = inputs["mask"] ^ self.inverts_mask
            p = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -1e30), axis=-1)
            y = jnp.einsum("bhqk,bkhd->bqhd", p, v).reshape(x.shape) @ weights["wo"].T
            return Attended(y, p.mean(1))

        return attend


def some_padding(rng, config):
    mask = rng.random((config["N"], config["S"])) < 0.6
    mask[:, 0], mask[:, -1] = True, False  # a row is neither empty nor full
    return {"mask": mask}


CROSS = Spec(
    "Cross attention",
    "N T E",
    {name: normal("E E", 0.4) for name in ("wq", "wk", "wv", "wo")},
    {},
    CrossTorch,
    inputs={"x": "N T E", "memory": "N S E", "mask": booleans("N S")},
    outputs={"y": "N T E", "p": "N T K"},
    config={"T": 3, "S": 5, "E": 6},
    cases=(Case("only", draw=some_padding),),
)


@pytest.mark.parametrize("adapter", [CrossTorch, CrossJax], ids=name_of)
def test_cross_attention_with_a_mask_agrees(adapter):
    assert wrong_of(adapter, "cross") == []


def test_a_mask_that_is_inverted_is_found():
    assert {"y", "p"} <= set(wrong_of(variant(CrossJax, inverts_mask=True), "cross"))


# --- an embedding whose matrix is that of the last layer too


class TiedTorch(TorchAdapter):
    weights = {"embed.weight": "w"}  # the first of its two names
    is_tied = True

    def build(self, config):
        import torch

        class Tied(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = torch.nn.Embedding(11, 5)
                self.out = torch.nn.Linear(5, 11, bias=False)
                self.out.weight = self.embed.weight

            def forward(self, tokens):
                return self.out(self.embed(tokens))

        return Tied()


class TiedLinen(LinenAdapter):
    weights = {"params/embedding": "w"}

    def build(self, config):
        from flax import linen

        class Tied(linen.Embed):
            def __call__(self, tokens):
                return self.attend(super().__call__(tokens))

        return Tied(11, 5)


class TiedNnx(NnxAdapter):
    weights = {"embed.embedding": "w"}

    def build(self, config):
        from flax import nnx
        from jax.lax import stop_gradient

        class Tied(nnx.Module):
            def __init__(self, rngs):
                self.embed = nnx.Embed(11, 5, rngs=rngs)
                self.same = self.embed

            def __call__(self, tokens):
                vectors = self.embed(tokens)
                return self.same.attend(vectors if config.get("tied", True) else stop_gradient(vectors))

        return Tied(nnx.Rngs(0))


class HalfTied(TiedNnx):
    def build(self, config):
        return super().build({**config, "tied": False})


TIED = Spec(
    "Tied",
    "N T",
    {"w": normal("11 5", 0.4)},
    {},
    TiedTorch,
    inputs={"tokens": integers("N T", 0, 11)},
    outputs={"y": "N T V"},
    config={"T": 3},
    cases=(Case("only"),),
)
SPECS = {"gru": GRU, "cross": CROSS, "tied": TIED}


@pytest.mark.parametrize("adapter", [TiedTorch, TiedLinen, TiedNnx], ids=name_of)
def test_a_tied_weight_has_the_sum_of_its_gradients(adapter):
    assert wrong_of(adapter, "tied") == []


def test_half_of_a_tied_gradient_is_found():
    assert wrong_of(HalfTied, "tied") == ["dw", "dw@ones"]


# --- nested outputs


@dataclass
class Inner:
    a: Any
    b: Any = None


NESTED = {
    "a tuple of tuples": lambda a, b, c: (a, (b, [c])),
    "a tuple with a dict": lambda a, b, c: (a, {"b": b, "c": c}),
    "a dict by name": lambda a, b, c: {"y.c": c, "y": {"a": a, "b": b}},
    "a dataclass": lambda a, b, c: {"y": Inner(a, b), "y.c": c},
    "a part that is None": lambda a, b, c: (Inner(a), b, None, c),
}


@pytest.mark.parametrize("nested", NESTED.values(), ids=NESTED)
def test_nested_outputs_get_the_specifications_names(nested):
    job = job_of(replace(TIED, outputs={"y.a": "", "y.b": "", "y.c": ""}))
    named = engine(TiedTorch).named_outputs(job, nested(1, 2, 3))
    assert {name: named[name] for name in job.outputs} == {"y.a": 1, "y.b": 2, "y.c": 3}


def test_outputs_of_other_names_or_numbers_are_one_line():
    job = job_of(replace(TIED, outputs={"y": "", "z": ""}))
    with pytest.raises(SpecError, match=r"TiedTorch must return y, z\. Received: 3 values\. Name the outputs"):
        engine(TiedTorch).named_outputs(job, (1, (2, 3)))
    with pytest.raises(
        SpecError, match=r"must return y, z\. Received: last_hidden_state, pooled\.0\. Name the outputs"
    ):
        engine(TiedTorch).named_outputs(job, {"last_hidden_state": 1, "pooled": (2,)})


# --- training statistics with a counter that the map leaves out


class Cumulative(TorchAdapter):
    """momentum=None: the counter of batches, which the map leaves out, weighs the running mean."""

    weights = {"running_mean": "mean", "running_var": "var", "num_batches_tracked": None}

    def build(self, config):
        import torch

        return torch.nn.BatchNorm1d(config["C"], momentum=None, affine=False)


def test_a_counter_that_is_left_out_starts_anew_at_each_call():
    from eca_multi.parity import uniform

    state = {"mean": "C", "var": uniform("C", 0.5, 1.5)}
    spec = Spec("Mean", "N C", {}, {}, Cumulative, state=state, config={"training": True}, cases=(Case("only"),))
    run = engine(Cumulative)
    first, second = (run.evaluate(job_of(spec)) for _ in range(2))
    for quantity, tensor in first.items():
        np.testing.assert_array_equal(tensor.values, second[quantity].values, err_msg=str(quantity))
    job = job_of(spec)
    mean = next(tensor.values for quantity, tensor in first.items() if quantity.label == "new_mean")
    np.testing.assert_allclose(mean, job.inputs["x"].mean(0), rtol=1e-5)  # of one batch, and not of two


# --- layers that a function builds inside itself

W = {"k": np.random.default_rng(0).normal(size=(5, 4)), "b": np.random.default_rng(1).normal(size=5)}
X = np.random.default_rng(2).normal(size=(3, 4))


def linear(x, w):
    import torch

    return torch.func.functional_call(torch.nn.Linear(4, 5), {"weight": w["k"], "bias": w["b"]}, (x,))


def copied(x, w):
    import torch

    layer = torch.nn.Linear(4, 5)
    layer.load_state_dict({"weight": w["k"], "bias": w["b"]})
    return layer(x)


def in_nnx(x, w):
    from flax import nnx

    layer = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
    layer.kernel.set_value(w["k"].T)
    layer.bias.set_value(w["b"])
    return layer(x)


def in_linen(x, w):
    from flax import linen

    return linen.Dense(5).apply({"params": {"kernel": w["k"].T, "bias": w["b"]}}, x)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_that_functions_build_agree(dtype):
    assert_match({"torch": linear, "nnx": in_nnx, "linen": in_linen}, X, W, dtype=dtype)


@pytest.mark.slow
def test_a_copy_that_cuts_the_gradient_is_named():
    assert_match({"torch": copied}, X, W)
    with pytest.raises(AssertionError, match=r"dk: .* no gradient of torch-copy reaches k: a copy into a layer cuts"):
        assert_match({"torch": linear, "torch-copy": copied}, X, W)
    with pytest.raises(AssertionError, match=r"no gradient of the reference reaches b: a copy into a layer cuts"):
        assert_match({"torch": copied, "nnx": in_nnx}, X, W)


def test_parameters_may_be_drawn_when_a_layer_is_built_and_not_in_the_call():
    import torch

    def gru(x, w):
        return torch.func.functional_call(torch.nn.GRU(4, 5), w, (x[None],))[0]

    def seeded(x, w):
        torch.manual_seed(0)
        return torch.nn.Linear(4, 5)(x)

    layer = torch.nn.GRU(4, 5)
    weights = {name: 0.4 * np.random.default_rng(3).normal(size=p.shape) for name, p in layer.named_parameters()}
    assert_match({"torch": gru}, X, weights)
    assert_match({"torch": seeded}, X)
    with pytest.raises(RuntimeError, match=r"keeps state or draws random numbers.*give weights to a layer that it"):
        assert_match({"torch": lambda x, w: torch.nn.Linear(4, 5)(x)}, X)
    with pytest.raises(RuntimeError, match="draws random numbers in the call"):
        assert_match({"torch": lambda x, w: torch.nn.Dropout()(x)}, X)


def test_integer_weights_index_and_have_no_gradient():
    weights = {"i": np.array([2, 1]), "s": np.float32(2)}
    right = {"torch": lambda x, w: x[:, w["i"]] * w["s"], "jax": lambda x, w: x[:, w["i"]] * w["s"]}
    assert_match(right, X, weights)
    with pytest.raises(AssertionError, match="jax float32 inputs y: "):
        assert_match({**right, "jax": lambda x, w: x[:, w["i"] - 1] * w["s"]}, X, weights)


# --- recurrent layers of Keras in half precision: JAX has no QR decomposition of half-precision initial weights


class LstmTorch(TorchAdapter):
    weights = {"weight_ih_l0": "wi", "weight_hh_l0": "wh", "bias_ih_l0": "b", "bias_hh_l0": "= 0"}

    def build(self, config):
        import torch

        return torch.nn.LSTM(config["F"], config["U"], batch_first=True)

    def call(self, layer, inputs, config):
        y, (h, c) = layer(inputs["x"], (inputs["h0"][None], inputs["c0"][None]))
        return y, (h[0], c[0])


class LstmKeras(KerasAdapter):
    weights = {
        "lstm_cell/kernel": "wi: g f -> f g",
        "lstm_cell/recurrent_kernel": "wh: g u -> u g",
        "lstm_cell/bias": "b",
    }

    def build(self, config):
        import keras

        return keras.layers.LSTM(config["U"], return_sequences=True, return_state=True)

    def call(self, layer, inputs, config):
        return layer(inputs["x"], initial_state=[inputs["h0"], inputs["c0"]])


class SwappedKeras(LstmKeras):
    def call(self, layer, inputs, config):
        return layer(inputs["x"], initial_state=[inputs["c0"], inputs["h0"]])


LSTM = Spec(
    "LSTM",
    "N T F",
    {"wi": normal("20 F", 0.4), "wh": normal("20 U", 0.4), "b": normal("20", 0.4)},
    {},
    LstmTorch,
    inputs={"x": "N T F", "h0": "N U", "c0": "N U"},
    outputs={"y": "N T U", "h": "N U", "c": "N U"},
    config={"T": 4, "F": 4, "U": 5},
    cases=(Case("only"),),
)
SPECS["lstm"] = LSTM


@pytest.mark.keras
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_recurrent_layer_of_keras_runs_in_half_precision(dtype):
    assert {"y", "h", "c"}.isdisjoint(wrong_of(LstmKeras, "lstm", dtype))


@pytest.mark.keras
def test_states_that_are_swapped_are_found():
    assert {"y", "h", "c"} <= set(wrong_of(SwappedKeras, "lstm"))
