"""An LSTM tagger in PyTorch and its ports to Keras, linen and nnx; MAPS carries the weights.

PyTorch keeps the gates in the order i f g o in one matrix, with two biases; Keras keeps one bias; linen and nnx keep a
kernel for each gate, and one bias. Tokens are (N, L) integers, scores (N, L, tags).
"""

from typing import Any

import numpy as np

WORDS, WIDTH, HIDDEN, TAGS = 50, 24, 32, 7
GATES = ["i", "f", "g", "o"]


def _gates(root: str) -> dict[str, str]:
    """Return the map of a cell of Flax, whose gates have kernels of their own: ii, hi and so on."""
    entries = {}
    for position, gate in enumerate(GATES):
        part = f"gate[{position}], gate=4"
        entries[f"{root}i{gate}KERNEL"] = f"lstm.weight_ih_l0: (gate h) i -> i h, {part}"
        entries[f"{root}h{gate}KERNEL"] = f"lstm.weight_hh_l0: (gate h) i -> i h, {part}"
        entries[f"{root}h{gate}BIAS"] = f"lstm.bias_ih_l0 + lstm.bias_hh_l0: (gate h) -> h, {part}"
    return entries


def _flax(root: str, step: str, cell: str) -> dict[str, str]:
    entries = {
        f"{root}embed{step}embedding": "embed.weight",
        f"{root}head{step}kernel": "head.weight: o i -> i o",
        f"{root}head{step}bias": "head.bias",
    }
    entries |= _gates(f"{root}{cell}{step}")
    return {k.replace("KERNEL", f"{step}kernel").replace("BIAS", f"{step}bias"): v for k, v in entries.items()}


MAPS = {
    "keras": {
        "embed/embeddings": "embed.weight",
        "lstm/lstm_cell/kernel": "lstm.weight_ih_l0: h i -> i h",
        "lstm/lstm_cell/recurrent_kernel": "lstm.weight_hh_l0: h i -> i h",
        "lstm/lstm_cell/bias": "lstm.bias_ih_l0 + lstm.bias_hh_l0",
        "head/kernel": "head.weight: o i -> i o",
        "head/bias": "head.bias",
    },
    "linen": _flax("params/", "/", "cell"),
    "nnx": {
        name.replace(".if.", ".if_."): entry for name, entry in _flax("", ".", "lstm.cell").items()
    },  # `if` is Python's
}


def inputs() -> np.ndarray:
    """Return a batch of token numbers, int32 (3, 9)."""
    return np.random.default_rng(0).integers(1, WORDS, (3, 9), dtype=np.int32)


def torch_model() -> Any:
    """Return the reference with random weights, in evaluation mode."""
    import torch
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(WORDS, WIDTH)
            self.lstm = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
            self.head = nn.Linear(HIDDEN, TAGS)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(self.embed(tokens))[0])

    torch.manual_seed(0)
    return Tagger().eval()


def keras_model() -> Any:
    """Return the port to Keras."""
    import keras
    from keras import layers

    entered = keras.Input((9,), dtype="int32")
    x = layers.Embedding(WORDS, WIDTH, name="embed")(entered)
    x = layers.LSTM(HIDDEN, return_sequences=True, name="lstm")(x)
    return keras.Model(entered, layers.Dense(TAGS, name="head")(x))


def linen_model() -> Any:
    """Return the port to linen, as (module, variables)."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    class Tagger(nn.Module):
        @nn.compact
        def __call__(self, tokens: jax.Array) -> jax.Array:
            x = nn.Embed(WORDS, WIDTH, name="embed")(tokens)
            x = nn.RNN(nn.LSTMCell(HIDDEN, name="cell"), name="lstm")(x)
            return nn.Dense(TAGS, name="head")(x)

    module = Tagger()
    return module, module.init(jax.random.key(0), jnp.zeros((1, 9), jnp.int32))


def nnx_model() -> Any:
    """Return the port to nnx."""
    import jax
    from flax import nnx

    class Tagger(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            self.embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
            self.lstm = nnx.RNN(nnx.LSTMCell(WIDTH, HIDDEN, rngs=rngs))
            self.head = nnx.Linear(HIDDEN, TAGS, rngs=rngs)

        def __call__(self, tokens: jax.Array) -> jax.Array:
            return self.head(self.lstm(self.embed(tokens)))

    return Tagger(rngs=nnx.Rngs(0))
