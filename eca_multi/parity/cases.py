"""The cases of the ECA parity run: what each one is there to show, and its data.

Data matters more than tolerance: with zero-mean noise the means vanish, every gate is near 0.5 and even a flipped
kernel goes unseen. So kernels are asymmetric, channels carry offsets, H != W, N > 1, and C is no power of two. Arrays
are channels first, (N, C, *S); each adapter moves the channels to where its framework has them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from eca_multi._kernel import eca_kernel_size

from .images import photograph_features

Arrays = dict[str, np.ndarray]
Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One input to compare on: `make` draws its float64 arrays, `options` are the layer's."""

    name: str
    why: str
    make: Callable[[Rng], Arrays]
    options: Mapping[str, str] = field(default_factory=dict)
    other_axis: bool = False  # the channels lie where the framework usually does not have them

    def arrays(self) -> Arrays:
        """Return x, weight, cotangent and, for some cases, mask; the same ones at each call."""
        seed = list(self.name.encode())
        return self.make(np.random.default_rng(seed))


# The cases whose point is their data share one shape, so that a compiled runner compiles them once. It has more than
# 2048 positions, so that a sum of equal terms in float16 would stop growing.
SHAPE = (2, 20, 53, 61)


def _draw(rng: Rng, shape: tuple[int, ...], k: int, *, per_channel: bool = False) -> Arrays:
    channels = shape[1]
    offsets = rng.uniform(-2, 2, (1, channels) + (1,) * (len(shape) - 2))
    return {
        "x": rng.normal(size=shape) + offsets,
        "weight": rng.normal(size=(channels, k) if per_channel else (k,)),
        "cotangent": rng.normal(size=shape),
    }


def _offsets(rng: Rng) -> Arrays:
    return _draw(rng, SHAPE, 3)


def _same_sign(rng: Rng) -> Arrays:
    arrays = _draw(rng, SHAPE, 3)
    return {**arrays, "x": np.abs(arrays["x"]), "cotangent": np.ones(SHAPE)}


def _saturated(rng: Rng) -> Arrays:
    arrays = _draw(rng, SHAPE, 3)
    return {**arrays, "weight": 8 * arrays["weight"]}


def _fp16_range(rng: Rng) -> Arrays:
    arrays = _draw(rng, SHAPE, 3)
    # Small weights and cotangents: the gate stays off its ends and the gradients inside float16.
    return {
        "x": rng.uniform(2e4, 6e4, SHAPE),
        "weight": arrays["weight"] * 2.0**-16,
        "cotangent": arrays["cotangent"] * 2.0**-21,
    }


def _padded_sequences(rng: Rng) -> Arrays:
    arrays = _draw(rng, (4, 24, 37), 3)
    lengths = np.array([37, 20, 1, 0])
    return {**arrays, "mask": np.arange(37) < lengths[:, None]}


def _photographs(rng: Rng) -> Arrays:
    x = photograph_features()
    k = eca_kernel_size(x.shape[1])
    return {"x": x, "weight": rng.normal(size=k), "cotangent": rng.normal(size=x.shape)}


CASES: tuple[Case, ...] = (
    Case("photographs", "two real photographs as 8x8-block DCT maps, 192 channels", _photographs),
    Case("offsets", "H != W, N > 1, a mean of its own in each channel", _offsets),
    Case("same-sign", "x > 0 and cotangent 1: long sums stagnate in half precision", _same_sign),
    Case("saturated", "gates near 0 and 1, where 1 - gate cancels", _saturated),
    Case("fp16-range", "x up to 6e4, where a float16 sum overflows", _fp16_range),
    Case("short-channels", "C < k: the kernel reaches over both ends", lambda r: _draw(r, (2, 3, 5, 4), 7)),
    Case("one-channel", "C = 1", lambda r: _draw(r, (3, 1, 6, 5), 3)),
    Case("one-position", "H = W = 1: the mean is the value itself", lambda r: _draw(r, (2, 18, 1, 1), 3)),
    Case(
        "circular",
        "channels wrap around, gate 2*sigmoid",
        lambda r: _draw(r, (2, 12, 7, 5), 5),
        {"padding": "circular", "gate": "2sigmoid"},
    ),
    Case(
        "per-channel",
        "ECA-NS: one kernel per channel, gate hard_sigmoid",
        lambda r: _draw(r, (2, 10, 6, 7), 3, per_channel=True),
        {"gate": "hard_sigmoid"},
    ),
    Case("padded-sequences", "1-D with a mask, one sample all masked", _padded_sequences),
    Case("volume", "3-D", lambda r: _draw(r, (2, 14, 3, 5, 4), 3)),
    Case(
        "other-axis",
        "channels last in torch, first in JAX and Keras",
        lambda r: _draw(r, (2, 11, 9), 3),
        other_axis=True,
    ),
)

CASES_BY_NAME = {case.name: case for case in CASES}
