"""The same small network in every framework, the same call, the same kernels: the same sites and the same outputs."""

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

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 6, 3)).astype(np.float32)
STEM = RNG.normal(size=(3, 3, 3, 8)).astype(np.float32) / 5
BLOCKS = [
    {
        "conv": RNG.normal(size=(3, 3, 8, 8)).astype(np.float32) / 8,
        "scale": RNG.uniform(0.5, 1.5, 8).astype(np.float32),
        "bias": RNG.normal(size=8).astype(np.float32),
        "mean": RNG.normal(size=8).astype(np.float32),
        "var": RNG.uniform(0.5, 2, 8).astype(np.float32),
    }
    for _ in range(2)
]
KERNELS = RNG.normal(size=(2, 3)).astype(np.float32)
EPSILON = 1e-5


class TorchBlock(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, eps=EPSILON)
        self.norm.load_state_dict(
            {
                "weight": torch.tensor(weights["scale"]),
                "bias": torch.tensor(weights["bias"]),
                "running_mean": torch.tensor(weights["mean"]),
                "running_var": torch.tensor(weights["var"]),
            },
            strict=False,
        )
        self.conv.load_state_dict({"weight": torch.tensor(weights["conv"].transpose(3, 2, 0, 1))})

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


def torch_network():
    stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    stem.load_state_dict({"weight": torch.tensor(STEM.transpose(3, 2, 0, 1))})
    return nn.Sequential(stem, *map(TorchBlock, BLOCKS)).eval()


def run_torch():
    net, x = torch_network(), torch.tensor(X.transpose(0, 3, 1, 2))
    with torch.no_grad():
        before = net(x)
        eca_multi.torch.insert_eca(net, example_inputs=x)
        assert torch.equal(net(x), before)
        for kernel, values in zip(eca_multi.torch.eca_parameters(net), KERNELS, strict=True):
            kernel.copy_(torch.tensor(values).reshape(1, 1, 3))
        after = net(x)
    return [y.numpy().transpose(0, 2, 3, 1) for y in (before, after)], eca_multi.torch.installed_eca(net)


def run_keras():
    x = inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    for i in range(2):
        y = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
        y = keras.layers.BatchNormalization(epsilon=EPSILON, name=f"norm{i}")(y)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    net = keras.Model(inputs, x)
    net.get_layer("stem").set_weights([STEM])
    for i, weights in enumerate(BLOCKS):
        net.get_layer(f"conv{i}").set_weights([weights["conv"]])
        net.get_layer(f"norm{i}").set_weights([weights[name] for name in ("scale", "bias", "mean", "var")])
    before = np.asarray(keras.ops.convert_to_numpy(net(X)))
    net = eca_multi.keras.insert_eca(net, example_inputs=X)
    assert np.array_equal(keras.ops.convert_to_numpy(net(X)), before)
    for kernel, values in zip(eca_multi.keras.eca_parameters(net), KERNELS, strict=True):
        kernel.assign(values.reshape(3, 1, 1))
    return [before, keras.ops.convert_to_numpy(net(X))], eca_multi.keras.installed_eca(net)


class NnxBlock(nnx.Module):
    def __init__(self, weights, rngs):
        self.conv = nnx.Conv(8, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, epsilon=EPSILON, use_running_average=True, rngs=rngs)
        self.conv.kernel[...] = jnp.asarray(weights["conv"])
        for name in ("scale", "bias", "mean", "var"):
            getattr(self.norm, name)[...] = jnp.asarray(weights[name])

    def __call__(self, x):
        return nnx.relu(x + self.norm(self.conv(x)))


def run_nnx():
    stem = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
    stem.kernel[...] = jnp.asarray(STEM)
    net = nnx.Sequential(stem, *(NnxBlock(weights, nnx.Rngs(0)) for weights in BLOCKS))
    before = np.asarray(net(X))
    eca_multi.flax.nnx.insert_eca(net, example_inputs=X)
    assert np.array_equal(net(X), before)
    for i, values in enumerate(KERNELS):
        net.layers[i + 1].norm.eca.kernel[...] = jnp.asarray(values).reshape(3, 1, 1)
    return [before, np.asarray(net(X))], eca_multi.flax.nnx.installed_eca(net)


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x):
        y = linen.Conv(8, (3, 3), use_bias=False, name="conv")(x)
        y = linen.BatchNorm(epsilon=EPSILON, use_running_average=True, name="norm")(y)
        return linen.relu(x + y)


class LinenNetwork(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(8, (3, 3), use_bias=False, name="stem")(x)
        for i in range(2):
            x = LinenBlock(name=f"block{i}")(x)
        return x


def run_linen():
    params = {"stem": {"kernel": STEM}}
    stats = {}
    for i, weights in enumerate(BLOCKS):
        norm = {"scale": weights["scale"], "bias": weights["bias"]}
        params[f"block{i}"] = {"conv": {"kernel": weights["conv"]}, "norm": norm}
        stats[f"block{i}"] = {"norm": {"mean": weights["mean"], "var": weights["var"]}}
    net, variables = LinenNetwork(), {"params": params, "batch_stats": stats}
    before = np.asarray(net.apply(variables, X))
    net, variables = eca_multi.flax.linen.insert_eca(net, variables, example_inputs=X)
    assert np.array_equal(net.apply(variables, X), before)
    state = eca_multi.flax.linen.eca_state(net, variables)
    for i, values in enumerate(KERNELS):
        state["params"][f"block{i}"]["norm"]["eca"]["kernel"] = values.reshape(3, 1, 1)
    net_and_variables = eca_multi.flax.linen.load_eca_state(net, variables, state)
    variables = net_and_variables[1] if isinstance(net_and_variables, tuple) else net_and_variables
    return [before, np.asarray(net.apply(variables, X))], eca_multi.flax.linen.installed_eca(net)


RUNS = {"keras": run_keras, "nnx": run_nnx, "linen": run_linen}


@pytest.mark.parametrize("other", [pytest.param(n, marks=[pytest.mark.keras] * (n == "keras")) for n in RUNS])
def test_the_frameworks_agree_before_and_after(other):
    (before, after), plan = RUNS[other]()
    (torch_before, torch_after), torch_plan = run_torch()
    np.testing.assert_allclose(before, torch_before, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after, torch_after, rtol=1e-5, atol=1e-5)
    assert np.abs(after - before).max() > 0.1  # the kernels do something
    sizes = [(entry.channels, entry.kernel_size, entry.parameters) for entry in plan.entries]
    assert sizes == [(entry.channels, entry.kernel_size, entry.parameters) for entry in torch_plan.entries]
