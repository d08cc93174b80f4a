"""The same small network in each framework, with an ECA of its author's own, and the same verbs of surgery on it.

A network is what the framework's verbs take and return: a model, or (module, variables) in linen. Every network has the
layers stem, own (an ECA) and conv, of which only conv gets an ECA here.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
from flax import linen, nnx

import eca_multi.flax.linen
import eca_multi.flax.nnx
import eca_multi.keras
import eca_multi.torch

OWN = np.array([0.25, -0.5, 0.75], np.float32)  # the kernel of the author's own ECA
X = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)


class TorchNet(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, channels, 3, padding=1)
        self.own = eca_multi.torch.ECA(channels, 3, gate="2sigmoid")
        self.own.load_state_dict({"conv.weight": torch.tensor(OWN).reshape(1, 1, 3)})
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(self.own(self.stem(x)))


class NnxNet(nnx.Module):
    def __init__(self, channels):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(3, channels, (3, 3), rngs=rngs)
        self.own = eca_multi.flax.nnx.ECA(channels, 3, gate="2sigmoid", rngs=rngs)
        self.conv = nnx.Conv(channels, channels, (3, 3), rngs=rngs)

    def __call__(self, x):
        return self.conv(self.own(self.stem(x)))


class LinenNet(linen.Module):
    channels: int

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(self.channels, (3, 3), name="stem")(x)
        x = eca_multi.flax.linen.ECA(3, gate="2sigmoid", name="own")(x)
        return linen.Conv(self.channels, (3, 3), name="conv")(x)


def _keras_net(channels):
    x = inputs = keras.Input((6, 5, 3))
    x = keras.layers.Conv2D(channels, 3, padding="same", name="stem")(x)
    x = eca_multi.keras.ECA(3, gate="2sigmoid", name="own")(x)
    x = keras.layers.Conv2D(channels, 3, padding="same", name="conv")(x)
    net = keras.Model(inputs, x)
    net.get_layer("own").set_weights([OWN.reshape(3, 1, 1)])
    return net


def _nnx_net(channels):
    """Filled by NumPy, because JAX compiles a function for the random numbers of each shape."""
    rng = np.random.default_rng(1)
    graph, shapes = nnx.split(nnx.eval_shape(lambda: NnxNet(channels)))
    state = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)
    net = nnx.merge(graph, state)
    net.own.kernel.set_value(jnp.asarray(OWN.reshape(3, 1, 1)))
    return net


def _linen_net(channels):
    rng = np.random.default_rng(1)
    params = {"own": {"kernel": OWN.reshape(3, 1, 1)}}
    for name, inputs in (("stem", 3), ("conv", channels)):
        kernel = rng.normal(size=(3, 3, inputs, channels)).astype(np.float32)
        params[name] = {"kernel": kernel, "bias": np.zeros(channels, np.float32)}
    return LinenNet(channels), {"params": params}


@dataclass(frozen=True)
class Twin:
    """A framework's network and verbs."""

    name: str
    module: str

    @property
    def package(self) -> Any:
        return import_module(self.module)

    def net(self, channels: int = 8) -> Any:
        makes = {"torch": TorchNet, "keras": _keras_net, "nnx": _nnx_net, "linen": _linen_net}
        return makes[self.name](channels)

    def plan(self, net: Any) -> Any:
        return self.package.plan_eca(*self.arguments(net), ["conv"], example_inputs=self.x())

    def insert(self, net: Any, **options: Any) -> Any:
        where = () if "plan" in options else (["conv"],)
        return self.package.insert_eca(*self.arguments(net), *where, example_inputs=self.x(), verify=False, **options)

    def base_state(self, net: Any) -> Any:
        return self.package.base_state(*self.arguments(net))

    def load_base_state(self, net: Any, state: Any) -> Any:
        """Return the network with the state."""
        loaded = self.package.load_base_state(*self.arguments(net), state)
        return (net[0], loaded) if self.name == "linen" else loaded

    def kernels(self, net: Any) -> dict[str, np.ndarray]:
        """Return the kernels of the author's own ECA and of the inserted ECA, as (k,)."""
        if self.name == "torch":
            found = net.own.conv.weight, net.conv.eca.conv.weight
            return {name: w.detach().numpy().reshape(-1) for name, w in zip(("own", "inserted"), found, strict=True)}
        if self.name == "nnx":
            found = net.own.kernel[...], net.conv.eca.kernel[...]
        elif self.name == "linen":
            found = net[1]["params"]["own"]["kernel"], net[1]["params"]["conv"]["eca"]["kernel"]
        else:
            own = net.get_layer("own").kernel
            inserted = next(k for k in eca_multi.keras.eca_parameters(net) if k is not own)
            found = tuple(keras.ops.convert_to_numpy(kernel) for kernel in (own, inserted))
        return {name: np.asarray(w).reshape(-1) for name, w in zip(("own", "inserted"), found, strict=True)}

    def set_inserted(self, net: Any, values: np.ndarray) -> Any:
        """Return the network with another kernel in the inserted ECA, as after training."""
        kernel = np.asarray(values, np.float32).reshape(3, 1, 1)
        if self.name == "torch":
            net.conv.eca.conv.weight.data.copy_(torch.tensor(kernel.reshape(1, 1, 3)))
        elif self.name == "nnx":
            net.conv.eca.kernel.set_value(jnp.asarray(kernel))
        elif self.name == "keras":
            own = net.get_layer("own").kernel
            next(k for k in eca_multi.keras.eca_parameters(net) if k is not own).assign(kernel)
        else:
            params = {**net[1]["params"]}
            params["conv"] = {**params["conv"], "eca": {"kernel": jnp.asarray(kernel)}}
            return net[0], {**net[1], "params": params}
        return net

    def arguments(self, net: Any) -> tuple[Any, ...]:
        """The first arguments of every verb."""
        return net if self.name == "linen" else (net,)

    def x(self) -> Any:
        """An input."""
        return torch.tensor(X.transpose(0, 3, 1, 2)) if self.name == "torch" else X


TWINS = (
    Twin("torch", "eca_multi.torch"),
    Twin("keras", "eca_multi.keras"),
    Twin("linen", "eca_multi.flax.linen"),
    Twin("nnx", "eca_multi.flax.nnx"),
)
