"""A BERT-like encoder with padding masks in PyTorch and its ports to Keras, linen and nnx; MAPS carries the weights.

Tokens are (N, L) integers and masks (N, L) booleans, True for a token. The norm follows each residual add, as in Devlin
et al., NAACL 2019; the output is the mean of the tokens that the mask keeps.
"""

from typing import Any

import numpy as np

DEPTH, WIDTH, HEADS, LENGTH, WORDS = 4, 48, 4, 12, 60


def _map(root: str, block: str, step: str, scale: str, shift: str, embedding: str, out: str) -> dict[str, str]:
    """Return the map of a port; see `vit.py` for the names' parts."""
    entries = {
        f"{root}words{step}{embedding}": "words.weight",
        f"{root}positions{step}{embedding}": "positions.weight",
        f"{root}norm{step}{scale}": "norm.weight",
        f"{root}norm{step}{shift}": "norm.bias",
    }
    for norm in ("norm1", "norm2"):
        entries[f"{block}{norm}{step}{scale}"] = f"blocks.{{i}}.{norm}.weight"
        entries[f"{block}{norm}{step}{shift}"] = f"blocks.{{i}}.{norm}.bias"
    for dense in ("linear1", "linear2"):
        entries[f"{block}{dense}{step}kernel"] = f"blocks.{{i}}.{dense}.weight: o i -> i o"
        entries[f"{block}{dense}{step}bias"] = f"blocks.{{i}}.{dense}.bias"
    ours, theirs = f"{block}attention{step}", "blocks.{i}.self_attn."
    for position, name in enumerate(("query", "key", "value")):
        part = f"qkv[{position}], qkv=3, heads={HEADS}"
        entries[f"{ours}{name}{step}kernel"] = f"{theirs}in_proj_weight: (qkv heads d) e -> e heads d, {part}"
        entries[f"{ours}{name}{step}bias"] = f"{theirs}in_proj_bias: (qkv heads d) -> heads d, {part}"
    entries[f"{ours}{out}{step}kernel"] = f"{theirs}out_proj.weight: o (heads d) -> heads d o, heads={HEADS}"
    entries[f"{ours}{out}{step}bias"] = f"{theirs}out_proj.bias"
    return entries


MAPS = {
    "keras": _map("", "block{i}_", "/", "gamma", "beta", "embeddings", "attention_output"),
    "linen": _map("params/", "params/block{i}/", "/", "scale", "bias", "embedding", "out"),
    "nnx": _map("", "blocks.{i}.", ".", "scale", "bias", "embedding", "out"),
}


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Return token numbers, int32 (3, 12), and a mask, bool (3, 12), of sequences with 12, 7 and 4 tokens."""
    tokens = np.random.default_rng(0).integers(1, WORDS, (3, LENGTH), dtype=np.int32)
    return tokens, np.arange(LENGTH) < np.array([[12], [7], [4]])


def torch_model() -> Any:
    """Return the reference with random weights, in evaluation mode."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(WORDS, WIDTH)
            self.positions = nn.Embedding(LENGTH, WIDTH)
            self.norm = nn.LayerNorm(WIDTH)
            options: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True}
            blocks = [nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, **options) for _ in range(DEPTH)]
            self.blocks = nn.ModuleList(blocks)

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.words(tokens) + self.positions(torch.arange(LENGTH, device=tokens.device)))
            for block in self.blocks:
                x = block(x, src_key_padding_mask=~mask)
            kept = mask[..., None].to(x.dtype)
            return (x * kept).sum(1) / kept.sum(1)

    torch.manual_seed(0)
    model = Encoder()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # zeros and ones would hide a wrong bias or scale
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def keras_model() -> Any:
    """Return the port to Keras."""
    import keras
    from keras import layers, ops

    def norm(x: Any, name: str) -> Any:
        return layers.LayerNormalization(epsilon=1e-5, name=name)(x)

    tokens, mask = (
        keras.Input((LENGTH,), dtype="int32", name="tokens"),
        keras.Input((LENGTH,), dtype="bool", name="mask"),
    )
    counted = ops.cumsum(ops.ones_like(tokens), 1) - 1  # from an input: a graph of Keras holds no constant's layer
    positions = layers.Embedding(LENGTH, WIDTH, name="positions")(counted)
    x = norm(layers.Add()([layers.Embedding(WORDS, WIDTH, name="words")(tokens), positions]), "norm")
    for i in range(DEPTH):
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"block{i}_attention")
        x = norm(layers.Add()([x, attention(x, x, attention_mask=mask[:, None, :])]), f"block{i}_norm1")
        y = layers.Dense(4 * WIDTH, name=f"block{i}_linear1")(x)
        y = ops.gelu(y, approximate=False)
        x = norm(layers.Add()([x, layers.Dense(WIDTH, name=f"block{i}_linear2")(y)]), f"block{i}_norm2")
    kept = ops.cast(mask[..., None], x.dtype)
    return keras.Model([tokens, mask], ops.sum(x * kept, 1) / ops.sum(kept, 1))


def linen_model() -> Any:
    """Return the port to linen, as (module, variables)."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    def norm(name: str) -> nn.LayerNorm:
        return nn.LayerNorm(1e-5, use_fast_variance=False, name=name)

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
            attention = nn.MultiHeadDotProductAttention(HEADS, name="attention")
            x = norm("norm1")(x + attention(x, mask=mask[:, None, None, :]))
            y = nn.gelu(nn.Dense(4 * WIDTH, name="linear1")(x), approximate=False)
            return norm("norm2")(x + nn.Dense(WIDTH, name="linear2")(y))

    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
            x = nn.Embed(WORDS, WIDTH, name="words")(tokens)
            x = norm("norm")(x + nn.Embed(LENGTH, WIDTH, name="positions")(jnp.arange(LENGTH)))
            for i in range(DEPTH):
                x = Block(name=f"block{i}")(x, mask)
            kept = mask[..., None].astype(x.dtype)
            return (x * kept).sum(1) / kept.sum(1)

    module = Encoder()
    return module, module.init(jax.random.key(0), *map(jnp.asarray, inputs()))


def nnx_model() -> Any:
    """Return the port to nnx."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    def norm(rngs: nnx.Rngs) -> nnx.LayerNorm:
        return nnx.LayerNorm(WIDTH, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    class Block(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
            self.norm1, self.norm2 = norm(rngs), norm(rngs)
            self.linear1 = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
            self.linear2 = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
            x = self.norm1(x + self.attention(x, mask=mask[:, None, None, :]))
            return self.norm2(x + self.linear2(nnx.gelu(self.linear1(x), approximate=False)))

    class Encoder(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            self.words = nnx.Embed(WORDS, WIDTH, rngs=rngs)
            self.positions = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
            self.norm = norm(rngs)
            self.blocks = nnx.List([Block(rngs=rngs) for _ in range(DEPTH)])

        def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
            x = self.norm(self.words(tokens) + self.positions(jnp.arange(LENGTH)))
            for block in self.blocks:
                x = block(x, mask)
            kept = mask[..., None].astype(x.dtype)
            return (x * kept).sum(1) / kept.sum(1)

    return Encoder(rngs=nnx.Rngs(0))
