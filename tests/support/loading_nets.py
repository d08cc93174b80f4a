"""One small network with ECA in every framework, with all that a state may hold, for tests of loading and injection.

`Loaded` gives the same verbs for all: states are flat, {path: array}, and nested again where the framework has them so.
"""

import functools
import hashlib
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
from flax import linen, nnx

SITES = ["norm", "head"]
SHAPE = {"torch": (2, 3, 6, 6), "keras": (2, 6, 6, 3), "linen": (2, 6, 6, 3), "nnx": (2, 6, 6, 3)}


def package(kind: str) -> Any:
    return import_module(f"eca_multi.{kind}" if kind in ("torch", "keras") else f"eca_multi.flax.{kind}")


@dataclass
class Loaded:
    """A network with ECA and what the tests do with it. `held` is the model, or linen's (module, variables)."""

    kind: str
    held: Any

    def state(self, part: str) -> dict[Any, Any]:
        """Return new arrays for the "base" or the "eca" state, by path, in the model's order."""
        function = getattr(package(self.kind), f"{part}_state")
        state = function(*self.held) if self.kind == "linen" else function(self.held)
        return {path: _copy(value) for path, value in flat(state).items()}

    def load(self, part: str, state: Any) -> Any:
        """Load in place. For linen, return the new variables; `held` keeps the old ones."""
        function = getattr(package(self.kind), f"load_{part}_state")
        state = nested(state) if isinstance(state, dict) and self.kind in ("linen", "nnx") else state
        return function(*self.held, state) if self.kind == "linen" else function(self.held, state)

    def after(self, loaded: Any) -> "Loaded":
        """What was loaded into."""
        return Loaded(self.kind, (self.held[0], loaded)) if self.kind == "linen" else self

    def bits(self) -> dict[Any, Any]:
        """Return the bits of all numbers of the model and of its random state."""
        tree = self.held[1] if self.kind == "linen" else self.held
        return {path: fingerprint(value) for path, value in everything(self.kind, tree).items()}


def flat(tree: Any, path: tuple[Any, ...] = ()) -> dict[Any, Any]:
    """Return tuples as paths in states with levels; torch's and Keras's states have no levels."""
    if not any(isinstance(value, dict) for value in tree.values()) and not path:
        return dict(tree)
    leaves: dict[Any, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, (*path, key)) if isinstance(value, dict) and value else {(*path, key): value}
    return leaves if not path or leaves else {path: tree}


def nested(leaves: dict[Any, Any]) -> dict[Any, Any]:
    tree: dict[Any, Any] = {}
    for (*above, name), value in leaves.items():
        inner = tree
        for key in above:
            inner = inner.setdefault(key, {})
        inner[name] = value
    return tree


def everything(kind: str, model: Any) -> dict[Any, Any]:
    if kind == "torch":
        return dict(model.state_dict()) | {"random": torch.get_rng_state()}
    if kind == "keras":
        return {f"{number} {one.path}": keras.ops.convert_to_numpy(one) for number, one in enumerate(model.variables)}
    return flat(nnx.to_pure_dict(nnx.state(model)) if kind == "nnx" else model)


def fingerprint(value: Any) -> Any:
    array = numpy(value)
    return array.shape, array.dtype.name, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def numpy(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    return np.asarray(jax.random.key_data(value) if is_key(value) else value)


def is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return jnp.array(value, copy=True) if isinstance(value, jax.Array) else np.array(value)


# --- the networks: convolution, norm, a mask of -inf, a count and a flag ---------------------------------------------

MASK = np.array([[0, -np.inf], [0, 0]], np.float32)


class TorchNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.drop = torch.nn.Dropout(0.1)
        self.head = torch.nn.Conv2d(4, 4, 1)
        self.register_buffer("mask", torch.from_numpy(MASK.copy()))
        self.register_buffer("flag", torch.tensor([True, False]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(x)))) + self.mask.exp().sum()


class Constants(keras.layers.Layer):
    def build(self, shape: Any) -> None:
        self.mask = self.add_weight(shape=(2, 2), trainable=False, name="mask")
        self.mask.assign(MASK)
        self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="count")
        self.flag = self.add_weight(shape=(2,), dtype="bool", initializer="zeros", trainable=False, name="flag")

    def call(self, x: Any) -> Any:
        return x + keras.ops.sum(keras.ops.exp(self.mask))


class NNXNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Conv(4, 4, (1, 1), rngs=rngs)
        self.mask = nnx.BatchStat(jnp.asarray(MASK))
        self.count = nnx.BatchStat(jnp.zeros((), jnp.int32))
        self.flag = nnx.BatchStat(jnp.array([True, False]))
        self.bare = jnp.ones(3)

    def __call__(self, x: Any) -> Any:
        return self.head(self.drop(self.norm(self.conv(x)))) + jnp.exp(self.mask[...]).sum()


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Conv(4, (3, 3), name="conv")(x)
        x = linen.BatchNorm(use_running_average=True, name="norm")(x)
        mask = self.variable("constants", "mask", lambda: jnp.asarray(MASK))
        self.variable("constants", "count", lambda: jnp.zeros((), jnp.int32))
        self.variable("constants", "flag", lambda: jnp.array([True, False]))
        return linen.Conv(4, (1, 1), name="head")(x) + jnp.exp(mask.value).sum()


def keras_net() -> Any:
    layers = [
        keras.Input(SHAPE["keras"][1:]),
        keras.layers.Conv2D(4, 3, padding="same", name="conv"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dropout(0.1, seed=3, name="drop"),
        keras.layers.Conv2D(4, 1, name="head"),
        Constants(name="constants"),
    ]
    return keras.Sequential(layers)


def plain(kind: str) -> Any:
    """The network without ECA."""
    if kind == "torch":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return TorchNet()
    if kind == "keras":
        return keras_net()
    if kind == "nnx":
        return NNXNet(nnx.Rngs(0))
    return _plain_linen()


@functools.cache
def _plain_linen() -> Any:
    """Nothing changes it."""
    module = LinenNet()
    return module, jax.jit(module.init)(jax.random.key(0), jnp.zeros(SHAPE["linen"]))


def with_eca(kind: str) -> Loaded:
    """Return the network with two ECAs whose kernels are not zero."""
    if kind == "linen":
        return _linen()  # nothing changes it
    net = Loaded(kind, package(kind).insert_eca(plain(kind), SITES, kernel_size=3))
    return filled(net)


@functools.cache
def _linen() -> Loaded:
    example = jnp.zeros(SHAPE["linen"])
    pair = package("linen").insert_eca(*plain("linen"), SITES, kernel_size=3, example_inputs=example, verify=False)
    return filled(Loaded("linen", pair))


def filled(net: Loaded) -> Loaded:
    return net.after(net.load("eca", {path: _filled(value) for path, value in net.state("eca").items()}))


def _filled(value: Any) -> Any:
    numbers = np.linspace(-1, 1, numpy(value).size, dtype=np.float32).reshape(value.shape)
    return torch.from_numpy(numbers) if isinstance(value, torch.Tensor) else numbers
