"""Attention: with the steps written out, so that each has a tap, and torch's fused function."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

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
from eca_multi.parity import normal, tap
from eca_multi.parity.define.sources import Draw

torch, nn, F, jax, jnp = map(Lazy, ("torch", "torch.nn", "torch.nn.functional", "jax", "jax.numpy"))
keras, linen, nnx = map(Lazy, ("keras", "flax.linen", "flax.nnx"))


def kept(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw which tokens count: the last ones of each sentence are padding."""
    lengths = rng.integers(shape[1] // 2, shape[1], shape[0])
    return np.arange(shape[1]) < lengths[:, None]


def attend(xp: Any, softmax: Any, inputs: Mapping[str, Any], weights: Mapping[str, Any], heads: int, **how: Any) -> Any:
    """Self-attention of (N, T, C), weights (out, in). `how` names the steps that a fault changes."""
    x, mask = inputs["x"], inputs["mask"]
    n, t, c = x.shape
    d = c // heads

    def split(y: Any) -> Any:
        if how.get("split") == "last":
            return xp.moveaxis(y.reshape(n, t, d, heads), 3, 1)
        return xp.moveaxis(y.reshape(n, t, heads, d), 2, 1)

    q, k, v = (split(x @ weights[name].T + weights[f"{name}_bias"]) for name in ("query", "key", "value"))
    scores = q @ xp.swapaxes(k, -1, -2)
    scores = tap("scores", scores if how.get("scale") == "none" else scores * d**-0.5)
    keep = mask[:, None, None, :]
    if how.get("mask") == "inverted":
        keep = ~keep
    if how.get("mask") == "added":
        masked = scores + keep
    elif how.get("mask") == "none":
        masked = scores
    else:
        masked = xp.where(keep, scores, -1e4)
    probabilities = tap("probabilities", softmax(masked, how.get("axis", -1)))
    context = xp.moveaxis(probabilities @ v, 1, 2)
    context = context.swapaxes(2, 3) if how.get("join") == "swapped" else context
    context = tap("context", context.reshape(n, t, c))
    return context @ weights["out"].T + weights["out_bias"]


NAMES = ("query", "key", "value", "out")


def _torch(config: Config) -> Any:
    return lambda inputs, weights: attend(torch, torch.softmax, inputs, weights, config["h"])


def _jax(**how: Any) -> Callable[[Config], Any]:
    return lambda config: lambda inputs, weights: attend(jnp, jax.nn.softmax, inputs, weights, config["h"], **how)


ATTENTION = Layer(
    "Self-attention, written out",
    {
        "layout": "N T C",
        "inputs": {"x": "N T C", "mask": Draw("N T", kept)},
        "weights": {
            **{name: normal("E C", 0.3) for name in NAMES},
            **{f"{name}_bias": normal("E", 0.3) for name in NAMES},
        },
        "config": {"T": 7, "C": 12, "E": 12, "h": 3},
        "taps": ("scores", "probabilities", "context"),
    },
    {"torch": torch_port(_torch), "jax": jax_port(_jax())},
    [
        Fault("no 1/sqrt(d)", "scores", "missing scale", {"jax": {"build": _jax(scale="none")}}),
        Fault("mask inverted", "probabilities", "mask inverted", {"jax": {"build": _jax(mask="inverted")}}),
        Fault("a mask of 0 and 1 added", "probabilities", "mask added", {"jax": {"build": _jax(mask="added")}}),
        Fault("mask forgotten", "probabilities", "mask missing", {"jax": {"build": _jax(mask="none")}}),
        Fault("softmax over the queries", "probabilities", "wrong axis", {"jax": {"build": _jax(axis=-2)}}),
        Fault(
            "heads split with the channels first", "scores", "order of heads", {"jax": {"build": _jax(split="last")}}
        ),
        Fault(
            "heads and channels joined the other way",
            "context",
            "order of heads",
            {"jax": {"build": _jax(join="swapped")}},
        ),
    ],
)


def _causal(**how: Any) -> Callable[[Config], Any]:
    def call(inputs: Any, weights: Any) -> Any:
        q, k, v = inputs["q"], inputs["k"], inputs["v"]
        scores = jnp.einsum("nhtd,nhsd->nhts", q, k) * (1.0 if how.get("scale") == "none" else q.shape[-1] ** -0.5)
        t, s = scores.shape[-2:]
        if how.get("mask") != "none":
            keep = jnp.tril(jnp.ones((t, s), bool), how.get("shift", 0))
            scores = jnp.where(keep.T if how.get("mask") == "future" else keep, scores, -1e4)
        return jax.nn.softmax(scores, -1) @ v

    return lambda config: call


FUSED = Layer(
    "scaled_dot_product_attention, causal",
    {
        "layout": "N h T d",
        "inputs": {"q": "N h T d", "k": "N h T d", "v": "N h T d"},
        "outputs": {"y": "N h T d"},
        "weights": {},
        "config": {"h": 2, "T": 6, "d": 8},
    },
    {
        "torch": torch_port(
            lambda c: lambda inputs, weights: F.scaled_dot_product_attention(*inputs.values(), is_causal=True)
        ),
        "jax": jax_port(_causal()),
    },
    [
        Fault("no 1/sqrt(d)", "y", "missing scale", {"jax": {"build": _causal(scale="none")}}),
        Fault("sees the future, not the past", "y", "mask inverted", {"jax": {"build": _causal(mask="future")}}),
        Fault("not causal", "y", "mask missing", {"jax": {"build": _causal(mask="none")}}),
        Fault("sees one token ahead", "y", "shifted mask", {"jax": {"build": _causal(shift=1)}}),
    ],
)


# --- the layers as shipped, with a mask of the tokens that count

_QKV, _BIASES = ("wq", "wk", "wv"), ("bq", "bk", "bv")


def _fused(layer: Any, inputs: Mapping[str, Any]) -> Any:
    x = inputs["x"]
    return layer(x, x, x, key_padding_mask=~inputs["mask"], need_weights=False)[0]


def _flax_heads(prefix: str, join: str) -> dict[str, str]:
    weights = {f"{prefix}out{join}kernel": "wo", f"{prefix}out{join}bias": "bo"}
    for name, weight, bias in zip(("query", "key", "value"), _QKV, _BIASES, strict=True):
        weights |= {f"{prefix}{name}{join}kernel": weight, f"{prefix}{name}{join}bias": bias}
    return weights


_KERAS_HEADS = {name.replace("out", "attention_output"): text for name, text in _flax_heads("", "/").items()}
_TORCH_HEADS = {
    "in_proj_weight": "wq wk wv: e h d -> (qkv h d) e",
    "in_proj_bias": "bq bk bv: h d -> (qkv h d)",
    "out_proj.weight": "wo: h d e -> e (h d)",
    "out_proj.bias": "bo",
}


def _keras_call(way: str) -> Any:
    """Return an adapter's call of Keras's layer: with the mask as it is, inverted or left out."""

    def call(self: Any, layer: Any, inputs: Mapping[str, Any], config: Config) -> Any:
        x, mask = inputs["x"], inputs["mask"]
        if way == "none":
            return layer(x, x)
        return layer(x, x, attention_mask=(~mask if way == "inverted" else mask)[:, None, :])

    return call


def _flax_call(self: Any, layer: Any, inputs: Mapping[str, Any], config: Config) -> Any:
    return layer(inputs["x"], mask=inputs["mask"][:, None, None, :])


MULTI_HEAD = Layer(
    "MultiheadAttention",
    {
        "layout": "N T C",
        "inputs": {"x": "N T C", "mask": Draw("N T", kept)},
        "weights": {
            **dict.fromkeys(_QKV, normal("C h d", 0.3)),
            **dict.fromkeys(_BIASES, normal("h d", 0.3)),
            "wo": normal("h d C", 0.3),
            "bo": normal("C", 0.3),
        },
        "config": {"T": 7, "C": 16, "h": 4, "d": 4},
    },
    {
        "torch": torch_port(
            lambda c: nn.MultiheadAttention(c["C"], c["h"], batch_first=True),
            _TORCH_HEADS,
            call=lambda self, layer, inputs, config: _fused(layer, inputs),
        ),
        "keras": keras_port(
            lambda c: keras.layers.MultiHeadAttention(c["h"], c["d"]), _KERAS_HEADS, call=_keras_call("as it is")
        ),
        "linen": linen_port(
            lambda c: linen.MultiHeadDotProductAttention(c["h"], **dtypes(c)),
            _flax_heads("params/", "/"),
            call=_flax_call,
        ),
        "nnx": nnx_port(
            lambda c: nnx.MultiHeadAttention(c["h"], c["C"], decode=False, rngs=rngs(), **dtypes(c)),
            _flax_heads("", "."),
            call=_flax_call,
        ),
    },
    [
        Fault("mask inverted", "y", "mask inverted", {"keras": {"call": _keras_call("inverted")}}),
        Fault("mask left out", "y", "mask missing", {"keras": {"call": _keras_call("none")}}),
        Fault(
            "heads inside of the channels",
            "y",
            "order of heads",
            {
                "linen": {
                    "weights": {
                        **_flax_heads("params/", "/"),
                        **{
                            f"params/{name}/kernel": f"{weight}: c h d -> c d h"
                            for name, weight in zip(("query", "key", "value"), _QKV, strict=True)
                        },
                    }
                }
            },
        ),
        Fault(
            "packed head by head",
            "y",
            "order of packing",
            {
                "torch": {
                    "weights": {
                        **_TORCH_HEADS,
                        "in_proj_weight": "wq wk wv: e h d -> (h qkv d) e",
                        "in_proj_bias": "bq bk bv: h d -> (h qkv d)",
                    }
                }
            },
        ),
        Fault(
            "keys and queries exchanged",
            "y",
            "order of packing",
            {"nnx": {"weights": {**_flax_heads("", "."), "query.kernel": "wk", "key.kernel": "wq"}}},
        ),
    ],
)
