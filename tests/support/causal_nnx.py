"""Causal and frame-wise networks of nnx in miniature, with the twins of linen in `causal_linen`."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

CHANNELS = 8


class LeftPadded(nnx.Module):
    """A causal convolution as it is written by hand: zeros in front, then no padding."""

    def __init__(self, inputs, features, width=3, dilation=1, *, rngs):
        self.before = dilation * (width - 1)
        self.conv = nnx.Conv(inputs, features, (width,), padding="VALID", kernel_dilation=dilation, rngs=rngs)

    def __call__(self, x):
        return self.conv(jnp.pad(x, ((0, 0), (self.before, 0), (0, 0))))


class First(nnx.Module):
    """A layer for channels behind the batch: (N, C, *S) in and out."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return jnp.moveaxis(self.layer(jnp.moveaxis(x, 1, -1)), -1, 1)


def causal(inputs: int, features: int, width: int = 3, dilation: int = 1, *, rngs: Any) -> nnx.Module:
    return nnx.Conv(inputs, features, (width,), padding="CAUSAL", kernel_dilation=dilation, rngs=rngs)


def first_causal(inputs: int, features: int, width: int = 3, dilation: int = 1, *, rngs: Any) -> nnx.Module:
    return First(causal(inputs, features, width, dilation, rngs=rngs))


class TCN(nnx.Module):
    def __init__(self, rngs, conv=causal, wrap=lambda layer: layer):
        self.stem = conv(3, CHANNELS, rngs=rngs)
        for i in range(2):
            setattr(self, f"first_{i}", conv(CHANNELS, CHANNELS, dilation=2**i, rngs=rngs))
            setattr(self, f"second_{i}", conv(CHANNELS, CHANNELS, dilation=2**i, rngs=rngs))
        self.head = wrap(nnx.Linear(CHANNELS, 3, rngs=rngs))

    def __call__(self, x):
        x = self.stem(x)
        for i in range(2):
            y = nnx.relu(getattr(self, f"first_{i}")(x))
            x = nnx.relu(x + getattr(self, f"second_{i}")(y))
        return self.head(x)


class WaveNet(nnx.Module):
    """Gated, dilated, with skips to the output."""

    def __init__(self, rngs):
        self.stem = causal(3, CHANNELS, 2, rngs=rngs)
        for i in range(3):
            setattr(self, f"gated_{i}", causal(CHANNELS, 2 * CHANNELS, 2, 2**i, rngs=rngs))
            setattr(self, f"skip_{i}", nnx.Conv(CHANNELS, CHANNELS, (1,), rngs=rngs))
            setattr(self, f"out_{i}", nnx.Conv(CHANNELS, CHANNELS, (1,), rngs=rngs))
        self.head = nnx.Conv(CHANNELS, 3, (1,), rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        skips = jnp.zeros(())
        for i in range(3):
            y, gate = jnp.split(getattr(self, f"gated_{i}")(x), 2, -1)
            y = jnp.tanh(y) * nnx.sigmoid(gate)
            skips = skips + getattr(self, f"skip_{i}")(y)
            x = x + getattr(self, f"out_{i}")(y)
        return self.head(nnx.relu(skips))


class Frames(nnx.Module):
    """A ResNet on each frame of a video (N, T, H, W, C), with batch norms."""

    def __init__(self, rngs, kernel=(1, 3, 3)):
        self.stem = nnx.Conv(3, CHANNELS, kernel, rngs=rngs)
        for i in range(2):
            setattr(self, f"first_{i}", nnx.Conv(CHANNELS, CHANNELS, kernel, rngs=rngs))
            setattr(self, f"norm1_{i}", nnx.BatchNorm(CHANNELS, rngs=rngs))
            setattr(self, f"second_{i}", nnx.Conv(CHANNELS, CHANNELS, kernel, rngs=rngs))
            setattr(self, f"norm2_{i}", nnx.BatchNorm(CHANNELS, rngs=rngs))
        self.head = nnx.Linear(CHANNELS, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for i in range(2):
            y = nnx.relu(getattr(self, f"norm1_{i}")(getattr(self, f"first_{i}")(x)))
            x = nnx.relu(x + getattr(self, f"norm2_{i}")(getattr(self, f"second_{i}")(y)))
        return self.head(x.mean((2, 3)))


class CausalVideo(nnx.Module):
    """Three-dimensional convolutions that see a frame and those before it."""

    def __init__(self, rngs):
        padding = [(2, 0), (1, 1), (1, 1)]
        self.stem = nnx.Conv(3, CHANNELS, (3, 3, 3), padding=padding, rngs=rngs)
        for i in range(2):
            setattr(self, f"first_{i}", nnx.Conv(CHANNELS, CHANNELS, (3, 3, 3), padding=padding, rngs=rngs))
            setattr(self, f"second_{i}", nnx.Conv(CHANNELS, CHANNELS, (3, 3, 3), padding=padding, rngs=rngs))
        self.head = nnx.Linear(CHANNELS, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for i in range(2):
            x = nnx.relu(x + getattr(self, f"second_{i}")(nnx.relu(getattr(self, f"first_{i}")(x))))
        return self.head(x.mean((2, 3)))


class Unknowing(nnx.Module):
    """An ordinary network: its convolutions look both ways."""

    def __init__(self, rngs, rank):
        self.stem = nnx.Conv(3, CHANNELS, (3,) * rank, rngs=rngs)
        self.second_0 = nnx.Conv(CHANNELS, CHANNELS, (3,) * rank, rngs=rngs)
        self.head = nnx.Linear(CHANNELS, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        return self.head(nnx.relu(x + self.second_0(x)))


class Classifier(nnx.Module):
    """Causal inside, but one answer for a whole sequence."""

    def __init__(self, rngs):
        self.stem = causal(3, CHANNELS, rngs=rngs)
        self.second_0 = causal(CHANNELS, CHANNELS, rngs=rngs)
        self.head = nnx.Linear(CHANNELS, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        return self.head(nnx.relu(x + self.second_0(x)).mean(1))


def _in_training(model):
    model.train()
    return model


NETS = {
    "tcn": lambda: TCN(nnx.Rngs(0)),
    "left padded": lambda: TCN(nnx.Rngs(0), LeftPadded),
    "first": lambda: TCN(nnx.Rngs(0), first_causal, First),
    "wavenet": lambda: WaveNet(nnx.Rngs(0)),
    "frames": lambda: Frames(nnx.Rngs(0)),
    "frames in training": lambda: _in_training(Frames(nnx.Rngs(0))),
    "batched frames": lambda: Frames(nnx.Rngs(0), (3, 3)),
    "causal video": lambda: CausalVideo(nnx.Rngs(0)),
    "ordinary": lambda: Unknowing(nnx.Rngs(0), 1),
    "classifier": lambda: Classifier(nnx.Rngs(0)),
}
