"""A vision transformer of 12 blocks in PyTorch and its ports to Keras, linen and nnx; MAPS carries the weights.

PyTorch keeps query, key and value in one `in_proj_weight`; the ports keep three kernels with an axis of heads. Images
are (N, 3, H, W) in PyTorch and (N, H, W, 3) in the ports. Source: Dosovitskiy et al., ICLR 2021, with the mean of the
tokens in place of a class token.
"""

from typing import Any

import numpy as np

DEPTH, WIDTH, HEADS, PATCH, TOKENS, CLASSES = 12, 64, 4, 8, 16, 10


def _map(root: str, block: str, step: str, scale: str, shift: str, out: str) -> dict[str, str]:
    """Return the map of a port.

    Args:
        root, block: What stands before the names of the network's own layers, and of those of block {i}.
        step: What stands between a layer and its weight.
        scale, shift, out: The port's names of the two weights of a norm, and of the attention's last layer.
    """
    entries = {
        f"{root}embed{step}kernel": "embed.weight: o i h w -> h w i o",
        f"{root}embed{step}bias": "embed.bias",
        f"{root}norm{step}{scale}": "norm.weight",
        f"{root}norm{step}{shift}": "norm.bias",
        f"{root}head{step}kernel": "head.weight: o i -> i o",
        f"{root}head{step}bias": "head.bias",
    }
    for norm in ("norm1", "norm2"):
        entries[f"{block}{norm}{step}{scale}"] = f"blocks.{{i}}.{norm}.weight"
        entries[f"{block}{norm}{step}{shift}"] = f"blocks.{{i}}.{norm}.bias"
    for dense in ("fc1", "fc2"):
        entries[f"{block}{dense}{step}kernel"] = f"blocks.{{i}}.{dense}.weight: o i -> i o"
        entries[f"{block}{dense}{step}bias"] = f"blocks.{{i}}.{dense}.bias"
    ours, theirs = f"{block}attention{step}", "blocks.{i}.attention."
    for position, name in enumerate(("query", "key", "value")):
        part = f"qkv[{position}], qkv=3, heads={HEADS}"
        entries[f"{ours}{name}{step}kernel"] = f"{theirs}in_proj_weight: (qkv heads d) e -> e heads d, {part}"
        entries[f"{ours}{name}{step}bias"] = f"{theirs}in_proj_bias: (qkv heads d) -> heads d, {part}"
    entries[f"{ours}{out}{step}kernel"] = f"{theirs}out_proj.weight: o (heads d) -> heads d o, heads={HEADS}"
    entries[f"{ours}{out}{step}bias"] = f"{theirs}out_proj.bias"
    return entries


MAPS = {
    "keras": {
        "positions/embeddings": "positions.weight",
        **_map("", "block{i}_", "/", "gamma", "beta", "attention_output"),
    },
    "linen": {
        "params/positions/embedding": "positions.weight",
        **_map("params/", "params/block{i}/", "/", "scale", "bias", "out"),
    },
    "nnx": {
        "positions.embedding": "positions.weight",
        **_map("", "blocks.{i}.", ".", "scale", "bias", "out"),
    },
}


def inputs() -> np.ndarray:
    """Return a batch of images, float32 (2, 3, 32, 32)."""
    return np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)


def torch_model() -> Any:
    """Return the reference with random weights, in evaluation mode."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(WIDTH)
            self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
            self.norm2 = nn.LayerNorm(WIDTH)
            self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
            self.gelu = nn.GELU()
            self.fc2 = nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm1(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
            self.positions = nn.Embedding(TOKENS, WIDTH)
            self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
            self.norm = nn.LayerNorm(WIDTH)
            self.head = nn.Linear(WIDTH, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2)
            x = x + self.positions(torch.arange(TOKENS, device=x.device))
            return self.head(self.norm(self.blocks(x)).mean(1))

    torch.manual_seed(0)
    model = ViT()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # zeros and ones would hide a wrong bias or scale
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def keras_model() -> Any:
    """Return the port to Keras, channels last."""
    import keras
    from keras import layers, ops

    def norm(x: Any, name: str) -> Any:
        return layers.LayerNormalization(epsilon=1e-5, name=name)(x)

    entered = keras.Input((32, 32, 3))
    x = layers.Conv2D(WIDTH, PATCH, PATCH, data_format="channels_last", name="embed")(entered)
    x = layers.Reshape((TOKENS, WIDTH))(x)
    counted = ops.cumsum(ops.ones_like(x[..., 0], "int32"), 1) - 1  # from x: a graph of Keras holds no constant's layer
    x = layers.Add()([x, layers.Embedding(TOKENS, WIDTH, name="positions")(counted)])
    for i in range(DEPTH):
        y = norm(x, f"block{i}_norm1")
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"block{i}_attention")
        x = layers.Add()([x, attention(y, y)])
        y = layers.Dense(4 * WIDTH, name=f"block{i}_fc1")(norm(x, f"block{i}_norm2"))
        y = ops.gelu(y, approximate=False)
        x = layers.Add(name=f"block{i}")([x, layers.Dense(WIDTH, name=f"block{i}_fc2")(y)])
    x = ops.mean(norm(x, "norm"), axis=1)
    return keras.Model(entered, layers.Dense(CLASSES, name="head")(x))


def linen_model() -> Any:
    """Return the port to linen, as (module, variables), channels last."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            y = nn.LayerNorm(1e-5, use_fast_variance=False, name="norm1")(x)
            x = x + nn.MultiHeadDotProductAttention(HEADS, name="attention")(y)
            y = nn.LayerNorm(1e-5, use_fast_variance=False, name="norm2")(x)
            y = nn.gelu(nn.Dense(4 * WIDTH, name="fc1")(y), approximate=False)
            return x + nn.Dense(WIDTH, name="fc2")(y)

    class ViT(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Conv(WIDTH, (PATCH, PATCH), PATCH, "VALID", name="embed")(x)
            x = x.reshape(x.shape[0], TOKENS, WIDTH)
            x = x + nn.Embed(TOKENS, WIDTH, name="positions")(jnp.arange(TOKENS))
            for i in range(DEPTH):
                x = Block(name=f"block{i}")(x)
            x = nn.LayerNorm(1e-5, use_fast_variance=False, name="norm")(x)
            return nn.Dense(CLASSES, name="head")(x.mean(1))

    module = ViT()
    return module, module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def nnx_model() -> Any:
    """Return the port to nnx, channels last."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    def norm(rngs: nnx.Rngs) -> nnx.LayerNorm:
        return nnx.LayerNorm(WIDTH, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    class Block(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            self.norm1 = norm(rngs)
            self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
            self.norm2 = norm(rngs)
            self.fc1 = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
            self.fc2 = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = x + self.attention(self.norm1(x))
            return x + self.fc2(nnx.gelu(self.fc1(self.norm2(x)), approximate=False))

    class ViT(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            self.embed = nnx.Conv(3, WIDTH, (PATCH, PATCH), PATCH, padding="VALID", rngs=rngs)
            self.positions = nnx.Embed(TOKENS, WIDTH, rngs=rngs)
            self.blocks = nnx.List([Block(rngs=rngs) for _ in range(DEPTH)])
            self.norm = norm(rngs)
            self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = self.embed(x)
            x = x.reshape(x.shape[0], TOKENS, WIDTH) + self.positions(jnp.arange(TOKENS))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x).mean(1))

    return ViT(rngs=nnx.Rngs(0))
