"""Embeddings and positions: a table of tokens, sinusoidal positions, rotary positions, patches."""

from collections.abc import Callable
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
from eca_multi.parity import integers

torch, nn, keras, linen, nnx, jnp = map(Lazy, ("torch", "torch.nn", "keras", "flax.linen", "flax.nnx", "jax.numpy"))


def _look_up(shift: int = 0, scale: float = 1.0) -> Callable[[Config], Any]:
    return lambda config: lambda inputs, weights: weights["table"][inputs["tokens"] + shift] * scale


EMBEDDING = Layer(
    "Embedding",
    {
        "layout": "N T",
        "inputs": {"tokens": integers("N T", 0, 29)},
        "outputs": {"y": "N T C"},
        "weights": {"table": "V C"},
        "config": {"V": 30, "T": 9, "C": 8},
    },
    {
        "torch": torch_port(lambda c: nn.Embedding(c["V"], c["C"]), {"weight": "table"}),
        "keras": keras_port(lambda c: keras.layers.Embedding(c["V"], c["C"]), {"embeddings": "table"}),
        "linen": linen_port(lambda c: linen.Embed(c["V"], c["C"], **dtypes(c)), {"params/embedding": "table"}),
        "nnx": nnx_port(lambda c: nnx.Embed(c["V"], c["C"], rngs=rngs(), **dtypes(c)), {"embedding": "table"}),
        "jax": jax_port(_look_up()),
    },
    [
        Fault("tokens from 1", "y", "shifted tokens", {"jax": {"build": _look_up(shift=1)}}),
        Fault("scaled by the root of the width", "y", "missing scale", {"jax": {"build": _look_up(scale=8**0.5)}}),
    ],
)


def positions(length: int, width: int, layout: str = "interleaved", first: int = 0, base: float = 1e4) -> np.ndarray:
    """Return the sinusoidal positions (length, width) of Vaswani et al., 2017."""
    places = np.arange(first, first + length)[:, None]
    angles = places * base ** (-2.0 * np.arange(width // 2) / width)
    if layout == "interleaved":
        return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(length, width)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)


def _sinusoidal(**options: Any) -> Callable[[Config], Any]:
    return lambda config: (
        lambda inputs, weights: (
            inputs["x"] + jnp.asarray(positions(config["L"], config["C"], **options), inputs["x"].dtype)
        )
    )


def _keras_sinusoidal(config: Config, **options: Any) -> Any:
    table = positions(config["L"], config["C"], **options)
    return keras.layers.Lambda(lambda x: x + keras.ops.cast(table, x.dtype))


def _torch_sinusoidal(config: Config) -> Any:
    def call(inputs: Any, weights: Any) -> Any:
        x = inputs["x"]
        # Computed by torch, so that the reference knows the rounding of the table.
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        places = torch.arange(config["L"], dtype=wide)[:, None]
        angles = places * 1e4 ** (-2.0 * torch.arange(config["C"] // 2, dtype=wide) / config["C"])
        table = torch.stack([angles.sin(), angles.cos()], -1).reshape(config["L"], config["C"])
        return x + table.to(x.dtype)

    return call


SINUSOIDAL = Layer(
    "Sinusoidal positions",
    {"layout": "N L C", "weights": {}, "config": {"L": 11, "C": 12}},
    {
        "torch": torch_port(_torch_sinusoidal),
        "keras": keras_port(_keras_sinusoidal),
        "jax": jax_port(_sinusoidal()),
    },
    [
        Fault("sines, then cosines", "y", "order of channels", {"jax": {"build": _sinusoidal(layout="halves")}}),
        Fault(
            "positions from 1",
            "y",
            "shifted positions",
            {"keras": {"build": lambda c: _keras_sinusoidal(c, first=1)}},
        ),
        Fault("base of 1000", "y", "base", {"jax": {"build": _sinusoidal(base=1e3)}}),
    ],
)


def _rotate(xp: Any, x: Any, angles: Any, interleaved: bool = False, sign: float = 1.0) -> Any:
    """Rotate pairs of channels: those of the two halves, or neighbours where `interleaved`."""
    cos, sin = xp.cos(angles), sign * xp.sin(angles)
    if interleaved:
        a, b = x[..., ::2], x[..., 1::2]
        return xp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return xp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def _angles(config: Config) -> Any:
    width = config["C"] // 2
    return np.arange(config["L"])[:, None] * 1e4 ** (-np.arange(width) / width)


def _rotary(**options: Any) -> Callable[[Config], Any]:
    def build(config: Config) -> Any:
        angles = _angles(config)
        return lambda inputs, weights: _rotate(jnp, inputs["x"], jnp.asarray(angles, "float32"), **options).astype(
            inputs["x"].dtype
        )

    return build


def _torch_rotary(config: Config) -> Any:
    angles = _angles(config)

    def call(inputs: Any, weights: Any) -> Any:
        x = inputs["x"]
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return _rotate(torch, x.to(wide), torch.from_numpy(angles).to(wide)).to(x.dtype)

    return call


ROTARY = Layer(
    "Rotary positions",
    {"layout": "N L C", "weights": {}, "config": {"L": 11, "C": 12}},
    {"torch": torch_port(_torch_rotary), "jax": jax_port(_rotary())},
    [
        Fault("neighbours rotated", "y", "order of channels", {"jax": {"build": _rotary(interleaved=True)}}),
        Fault("rotated the other way", "y", "sign", {"jax": {"build": _rotary(sign=-1.0)}}),
    ],
)
