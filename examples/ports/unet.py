"""A small U-Net in PyTorch and its ports to Keras, linen and nnx; MAPS carries the weights.

Images are (N, 3, H, W) in PyTorch and (N, H, W, 3) in the ports. The kernels of transposed convolutions have other
axes in each framework, and in Flax they are reversed in space too. Source: Ronneberger et al., MICCAI 2015, with
GroupNorm and padded convolutions.
"""

from typing import Any

import numpy as np

WIDTHS, GROUPS, CLASSES = (16, 32, 64), 4, 2
DOWN = [("down0", 3, 16), ("down1", 16, 32), ("down2", 32, 64)]
UP = [("up1", 64, 32), ("up0", 32, 16)]  # each is a transposed convolution, and a block on twice its channels


def _map(root: str, step: str, scale: str, shift: str, transposed: str) -> dict[str, str]:
    """Return the map of a port, whose layers are called `down0_conv1`, `up1_transposed` and so on."""
    entries = {f"{root}head{step}kernel": "head.weight: o i h w -> h w i o", f"{root}head{step}bias": "head.bias"}
    for conv in ("conv1", "conv2"):
        entries[f"{root}{{block}}_{conv}{step}kernel"] = f"{{block}}.{conv}.weight: o i h w -> h w i o"
    for norm in ("norm1", "norm2"):
        entries[f"{root}{{block}}_{norm}{step}{scale}"] = f"{{block}}.{norm}.weight"
        entries[f"{root}{{block}}_{norm}{step}{shift}"] = f"{{block}}.{norm}.bias"
    entries[f"{root}{{block}}_transposed{step}kernel"] = f"{{block}}_transposed.weight: {transposed}"
    entries[f"{root}{{block}}_transposed{step}bias"] = "{block}_transposed.bias"
    return entries


MAPS = {
    "keras": _map("", "/", "gamma", "beta", "i o h w -> h w o i"),
    "linen": _map("params/", "/", "scale", "bias", "i o h w -> h w i o, flip(h w)"),
    "nnx": _map("", ".", "scale", "bias", "i o h w -> h w i o, flip(h w)"),
}


def inputs() -> np.ndarray:
    """Return a batch of images, float32 (2, 3, 24, 32)."""
    return np.random.default_rng(0).normal(size=(2, 3, 24, 32)).astype(np.float32)


def torch_model() -> Any:
    """Return the reference with random weights, in evaluation mode."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inside: int, outside: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
            self.norm1 = nn.GroupNorm(GROUPS, outside)
            self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
            self.norm2 = nn.GroupNorm(GROUPS, outside)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm1(self.conv1(x)).relu()
            return self.norm2(self.conv2(x)).relu()

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, inside, outside in DOWN:
                setattr(self, name, Block(inside, outside))
            for name, inside, outside in UP:
                setattr(self, f"{name}_transposed", nn.ConvTranspose2d(inside, outside, 2, 2))
                setattr(self, name, Block(2 * outside, outside))
            self.pool = nn.MaxPool2d(2)
            self.head = nn.Conv2d(WIDTHS[0], CLASSES, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.down0(x)
            b = self.down1(self.pool(a))
            x = self.down2(self.pool(b))
            x = self.up1(torch.cat([self.up1_transposed(x), b], 1))
            x = self.up0(torch.cat([self.up0_transposed(x), a], 1))
            return self.head(x)

    torch.manual_seed(0)
    model = UNet()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name:
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def keras_model() -> Any:
    """Return the port to Keras, channels last."""
    import keras
    from keras import layers

    last = {"data_format": "channels_last"}

    def block(x: Any, width: int, name: str) -> Any:
        for i in (1, 2):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_conv{i}", **last)(x)
            x = layers.GroupNormalization(GROUPS, epsilon=1e-5, name=f"{name}_norm{i}")(x)
            x = layers.ReLU()(x)
        return x

    entered = keras.Input((24, 32, 3))
    kept, x = [], entered
    for name, _, width in DOWN:
        x = block(layers.MaxPooling2D(2, **last)(x) if kept else x, width, name)
        kept.append(x)
    for (name, _, width), skip in zip(UP, kept[-2::-1], strict=True):
        x = layers.Conv2DTranspose(width, 2, 2, name=f"{name}_transposed", **last)(x)
        x = block(layers.Concatenate()([x, skip]), width, name)
    return keras.Model(entered, layers.Conv2D(CLASSES, 1, name="head", **last)(x))


def linen_model() -> Any:
    """Return the port to linen, as (module, variables), channels last."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    class UNet(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            def block(x: jax.Array, width: int, name: str) -> jax.Array:
                for i in (1, 2):
                    x = nn.Conv(width, (3, 3), use_bias=False, name=f"{name}_conv{i}")(x)
                    x = nn.GroupNorm(GROUPS, epsilon=1e-5, use_fast_variance=False, name=f"{name}_norm{i}")(x)
                    x = nn.relu(x)
                return x

            kept: list[jax.Array] = []
            for name, _, width in DOWN:
                x = block(nn.max_pool(x, (2, 2), (2, 2)) if kept else x, width, name)
                kept.append(x)
            for (name, _, width), skip in zip(UP, kept[-2::-1], strict=True):
                x = nn.ConvTranspose(width, (2, 2), (2, 2), "VALID", name=f"{name}_transposed")(x)
                x = block(jnp.concatenate([x, skip], -1), width, name)
            return nn.Conv(CLASSES, (1, 1), name="head")(x)

    module = UNet()
    return module, module.init(jax.random.key(0), jnp.zeros((1, 24, 32, 3)))


def nnx_model() -> Any:
    """Return the port to nnx, channels last."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    class UNet(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            for name, inside, outside in (*DOWN, *((name, 2 * o, o) for name, _, o in UP)):
                for i, width in ((1, inside), (2, outside)):
                    setattr(self, f"{name}_conv{i}", nnx.Conv(width, outside, (3, 3), use_bias=False, rngs=rngs))
                    options: dict[str, Any] = {"num_groups": GROUPS, "epsilon": 1e-5, "use_fast_variance": False}
                    setattr(self, f"{name}_norm{i}", nnx.GroupNorm(outside, **options, rngs=rngs))
            for name, inside, outside in UP:
                layer = nnx.ConvTranspose(inside, outside, (2, 2), (2, 2), padding="VALID", rngs=rngs)
                setattr(self, f"{name}_transposed", layer)
            self.head = nnx.Conv(WIDTHS[0], CLASSES, (1, 1), rngs=rngs)

        def block(self, x: jax.Array, name: str) -> jax.Array:
            for i in (1, 2):
                x = nnx.relu(getattr(self, f"{name}_norm{i}")(getattr(self, f"{name}_conv{i}")(x)))
            return x

        def __call__(self, x: jax.Array) -> jax.Array:
            kept: list[jax.Array] = []
            for name, _, _ in DOWN:
                x = self.block(nnx.max_pool(x, (2, 2), (2, 2)) if kept else x, name)
                kept.append(x)
            for (name, _, _), skip in zip(UP, kept[-2::-1], strict=True):
                x = getattr(self, f"{name}_transposed")(x)
                x = self.block(jnp.concatenate([x, skip], -1), name)
            return self.head(x)

    return UNet(rngs=nnx.Rngs(0))
