"""Causal and frame-wise networks of linen in miniature, with the twins of nnx in `causal_nnx`."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

CHANNELS = 8


class LeftPadded(nn.Module):
    """A causal convolution as it is written by hand: zeros in front, then no padding."""

    features: int
    width: int = 3
    dilation: int = 1

    @nn.compact
    def __call__(self, x):
        x = jnp.pad(x, ((0, 0), (self.dilation * (self.width - 1), 0), (0, 0)))
        return nn.Conv(self.features, (self.width,), padding="VALID", kernel_dilation=self.dilation, name="conv")(x)


class First(nn.Module):
    """A layer for channels behind the batch: (N, C, *S) in and out."""

    layer: nn.Module

    @nn.compact
    def __call__(self, x):
        return jnp.moveaxis(self.layer(jnp.moveaxis(x, 1, -1)), -1, 1)


def causal(features: int, width: int = 3, dilation: int = 1, **fields: Any) -> nn.Module:
    return nn.Conv(features, (width,), padding="CAUSAL", kernel_dilation=dilation, **fields)


class TCN(nn.Module):
    conv: Any = staticmethod(causal)

    @nn.compact
    def __call__(self, x):
        x = self.conv(CHANNELS, name="stem")(x)
        for i in range(2):
            y = nn.relu(self.conv(CHANNELS, dilation=2**i, name=f"first_{i}")(x))
            x = nn.relu(x + self.conv(CHANNELS, dilation=2**i, name=f"second_{i}")(y))
        return nn.Dense(3, name="head")(x)


class FirstTCN(nn.Module):
    """The TCN with its channels behind the batch: (N, C, T)."""

    @nn.compact
    def __call__(self, x):
        x = First(causal(CHANNELS), name="stem")(x)
        for i in range(2):
            y = nn.relu(First(causal(CHANNELS, dilation=2**i), name=f"first_{i}")(x))
            x = nn.relu(x + First(causal(CHANNELS, dilation=2**i), name=f"second_{i}")(y))
        return First(nn.Dense(3), name="head")(x)


class WaveNet(nn.Module):
    """Gated, dilated, with skips to the output."""

    @nn.compact
    def __call__(self, x):
        x = causal(CHANNELS, 2, name="stem")(x)
        skips = jnp.zeros(())
        for i in range(3):
            y, gate = jnp.split(causal(2 * CHANNELS, 2, 2**i, name=f"gated_{i}")(x), 2, -1)
            y = jnp.tanh(y) * nn.sigmoid(gate)
            skips = skips + nn.Conv(CHANNELS, (1,), name=f"skip_{i}")(y)
            x = x + nn.Conv(CHANNELS, (1,), name=f"out_{i}")(y)
        return nn.Conv(3, (1,), name="head")(nn.relu(skips))


class Frames(nn.Module):
    """A ResNet on each frame of a video (N, T, H, W, C), with batch norms."""

    kernel: Any = (1, 3, 3)
    train: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(CHANNELS, self.kernel, name="stem")(x)
        for i in range(2):
            y = nn.Conv(CHANNELS, self.kernel, name=f"first_{i}")(x)
            y = nn.relu(nn.BatchNorm(not self.train, name=f"norm1_{i}")(y))
            y = nn.Conv(CHANNELS, self.kernel, name=f"second_{i}")(y)
            x = nn.relu(x + nn.BatchNorm(not self.train, name=f"norm2_{i}")(y))
        return nn.Dense(3, name="head")(x.mean((2, 3)))


class CausalVideo(nn.Module):
    """Three-dimensional convolutions that see a frame and those before it."""

    @nn.compact
    def __call__(self, x):
        padding = [(2, 0), (1, 1), (1, 1)]
        x = nn.Conv(CHANNELS, (3, 3, 3), padding=padding, name="stem")(x)
        for i in range(2):
            y = nn.relu(nn.Conv(CHANNELS, (3, 3, 3), padding=padding, name=f"first_{i}")(x))
            x = nn.relu(x + nn.Conv(CHANNELS, (3, 3, 3), padding=padding, name=f"second_{i}")(y))
        return nn.Dense(3, name="head")(x.mean((2, 3)))


class Unknowing(nn.Module):
    """An ordinary network: its convolutions look both ways."""

    @nn.compact
    def __call__(self, x):
        kernel = (3,) * (x.ndim - 2)
        x = nn.Conv(CHANNELS, kernel, name="stem")(x)
        x = nn.relu(x + nn.Conv(CHANNELS, kernel, name="second_0")(x))
        return nn.Dense(3, name="head")(x)


class Classifier(nn.Module):
    """Causal inside, but one answer for a whole sequence."""

    @nn.compact
    def __call__(self, x):
        x = causal(CHANNELS, name="stem")(x)
        x = nn.relu(x + causal(CHANNELS, name="second_0")(x))
        return nn.Dense(3, name="head")(x.mean(1))


NETS = {
    "tcn": lambda: TCN(),
    "left padded": lambda: TCN(LeftPadded),
    "first": lambda: FirstTCN(),
    "wavenet": lambda: WaveNet(),
    "frames": lambda: Frames(),
    "frames in training": lambda: Frames(train=True),
    "batched frames": lambda: Frames((3, 3)),
    "causal video": lambda: CausalVideo(),
    "ordinary": lambda: Unknowing(),
    "classifier": lambda: Classifier(),
}
