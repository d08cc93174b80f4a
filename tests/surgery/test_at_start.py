"""The plan says where the network's own weights keep a gradient from a kernel: in each framework, and only there."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

import eca_multi.flax.linen
import eca_multi.flax.nnx
import eca_multi.keras
import eca_multi.torch
from eca_multi.surgery.at_start import NO_MEAN, NO_MEAN_YET, SCALED_TO_ZERO, SILENT

X = np.random.default_rng(0).normal(size=(2, 5, 6, 8)).astype(np.float32)
CASES = {"zero": (SILENT,), "one": (), "instance": (NO_MEAN,), "instance with bias": (NO_MEAN_YET,)}


def torch_net(case):
    norm = nn.BatchNorm2d(8) if case in ("zero", "one") else nn.InstanceNorm2d(8, affine="bias" in case)
    if case == "zero":
        nn.init.zeros_(norm.weight)
    return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), norm)


def torch_notes(case):
    return eca_multi.torch.plan_eca(torch_net(case), "norm").entries[0].notes


def keras_notes(case):
    x = inputs = keras.Input((5, 6, 8))
    x = keras.layers.Conv2D(8, 3, name="conv")(x)
    if case in ("zero", "one"):
        x = keras.layers.BatchNormalization(gamma_initializer=f"{case}s", name="norm")(x)
    else:
        x = keras.layers.GroupNormalization(-1, center="bias" in case, name="norm")(x)
    return eca_multi.keras.plan_eca(keras.Model(inputs, x), "norm").entries[0].notes


def nnx_notes(case):
    rngs = nnx.Rngs(0)
    start = jax.nn.initializers.zeros if case == "zero" else jax.nn.initializers.ones
    if case in ("zero", "one"):
        norm = nnx.BatchNorm(8, scale_init=start, use_running_average=True, rngs=rngs)
    else:
        norm = nnx.InstanceNorm(8, use_bias="bias" in case, rngs=rngs)
    net = nnx.Sequential(nnx.Conv(8, 8, (3, 3), rngs=rngs), norm)
    return eca_multi.flax.nnx.plan_eca(net, "norm").entries[0].notes


def linen_notes(case):
    start = jax.nn.initializers.zeros if case == "zero" else jax.nn.initializers.ones
    if case in ("zero", "one"):
        norm = linen.BatchNorm(use_running_average=True, scale_init=start)
    else:
        norm = linen.GroupNorm(num_groups=8, use_bias="bias" in case)
    net = linen.Sequential([linen.Conv(8, (3, 3)), norm])
    variables = net.init(jax.random.key(0), jnp.asarray(X))
    return eca_multi.flax.linen.plan_eca(net, variables, "norm", example_inputs=X).entries[0].notes


NOTES = {"torch": torch_notes, "keras": keras_notes, "nnx": nnx_notes, "linen": linen_notes}


@pytest.mark.parametrize("home", [pytest.param(n, marks=[pytest.mark.keras] * (n == "keras")) for n in NOTES])
@pytest.mark.parametrize("case", CASES)
def test_a_plan_says_where_no_gradient_reaches_a_kernel(home, case):
    assert NOTES[home](case) == CASES[case]


@pytest.mark.parametrize("case", CASES)
def test_the_notes_are_true(case):
    """The control by autograd: no gradient where a note stands, and a gradient where none stands."""
    net = eca_multi.torch.insert_eca(torch_net(case), "norm")
    y = net(torch.tensor(X.transpose(0, 3, 1, 2)))
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    gradient = eca_multi.torch.eca_parameters(net)[0].grad.abs().max()
    assert (gradient < 1e-4) == bool(CASES[case])


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.gamma = nn.Parameter(torch.full((8,), scale))

    def forward(self, x):
        return x + self.gamma.view(1, 8, 1, 1) * self.conv(x)


@pytest.mark.parametrize("scale", [0.0, 1e-6])
def test_a_layer_scale_of_zero_behind_the_site(scale):
    (entry,) = eca_multi.torch.plan_eca(nn.Sequential(Scaled(scale))).entries
    assert (SCALED_TO_ZERO in entry.notes) == (scale == 0)
    assert "before the layer scale" in entry.notes


class LinenScaled(linen.Module):
    scale: float
    shape: tuple[int, ...]

    @linen.compact
    def __call__(self, x):
        gamma = self.param("gamma", lambda _, shape: jnp.full(shape, self.scale), self.shape)
        return x + gamma * linen.Conv(8, (3, 3))(x)


class NnxScaled(nnx.Module):
    def __init__(self, scale, shape):
        self.conv = nnx.Conv(8, 8, (3, 3), rngs=nnx.Rngs(0))
        self.gamma = nnx.Param(jnp.full(shape, scale))

    def __call__(self, x):
        return x + self.gamma.get_value() * self.conv(x)


def linen_branch(net):
    variables = net.init(jax.random.key(0), jnp.asarray(X))
    return eca_multi.flax.linen.plan_eca(net, variables, example_inputs=X).entries[0].notes


def nnx_branch(net):
    return eca_multi.flax.nnx.plan_eca(net, example_inputs=X).entries[0].notes


@pytest.mark.parametrize("shape", [(8,), ()], ids=["layer scale", "ReZero"])
@pytest.mark.parametrize("scale", [0.0, 1e-6])
def test_a_layer_scale_of_zero_in_flax(scale, shape):
    for notes in (linen_branch(LinenScaled(scale, shape)), nnx_branch(NnxScaled(scale, shape))):
        assert (SCALED_TO_ZERO in notes) == (scale == 0)
    net = eca_multi.flax.nnx.insert_eca(NnxScaled(scale, shape), example_inputs=X)  # the control by autograd
    gradient = nnx.grad(lambda net: (net(X) * jnp.linspace(-1, 1, X.size).reshape(X.shape)).sum())(net)
    assert bool(gradient["conv"]["eca"]["kernel"].get_value().any()) == (scale != 0)


class LinenLayerScale(linen.Module):
    start: float

    @linen.compact
    def __call__(self, x):
        return x * self.param("gamma", lambda _: jnp.full((x.shape[-1],), self.start))


class NnxLayerScale(nnx.Module):
    def __init__(self, start):
        self.gamma = nnx.Param(jnp.full((8,), start))

    def __call__(self, x):
        return x * self.gamma.get_value()


class NnxBlock(nnx.Module):
    def __init__(self, start):
        self.conv = nnx.Conv(8, 8, (3, 3), rngs=nnx.Rngs(0))
        self.scale = NnxLayerScale(start)

    def __call__(self, x):
        return x + self.scale(self.conv(x))


class LinenBlock(linen.Module):
    start: float

    @linen.compact
    def __call__(self, x):
        return x + LinenLayerScale(self.start)(linen.Conv(8, (3, 3))(x))


@pytest.mark.parametrize("start", [0.0, 1e-6])
def test_a_layer_scale_of_zero_that_is_a_module_in_flax(start):
    for notes in (linen_branch(LinenBlock(start)), nnx_branch(NnxBlock(start))):
        assert (SILENT in notes) == (start == 0)
