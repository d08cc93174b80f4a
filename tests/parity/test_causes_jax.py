"""The cause of a wrong port by name, where the reference is on JAX: its computation is replayed in PyTorch."""

import re

import numpy as np
import pytest

from eca_multi.parity.budget.of_models import solve, tap_of
from eca_multi.parity.define.tensor import Tensor
from eca_multi.parity.explain.submodules import causes_of
from eca_multi.parity.models import Given, model_of

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
nn = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
pytest.importorskip("torch")

X = np.random.default_rng(7).normal(size=(2, 6, 8)).astype(np.float32)
IMAGE = np.random.default_rng(8).normal(size=(2, 6, 7, 4)).astype(np.float32)


def said(reference, port, inputs):
    """Return what the search says of a port that returns other values than the reference on the same inputs."""
    model, other = model_of(reference), model_of(port)
    call = model.run(inputs, "float32", record=True).calls[-1]
    given, target = Given(call.key, call.inputs), tap_of(call.key, "y")
    solution = solve(model, inputs, "float32", given=given)
    found = other.run(inputs, "float32", given=given).calls[-1].outputs["y"]
    return causes_of(model, inputs, given, solution, Tensor(found, "float32"), target, "float32")


def drawn(module, x):
    """Return the module's variables with values that tell everything apart."""
    rng = np.random.default_rng(9)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.2, 1.0, s.shape) * rng.choice([-1, 1], s.shape)), shapes)


def module(function):
    class Written(nn.Module):
        @nn.compact
        def __call__(self, x):
            return function(x)

    return Written()


def attention(scaled=True, axis=-1, swapped=False):
    def call(x):
        q, k, v = (nn.DenseGeneral((2, 4), name=name)(x) for name in "qkv")
        if swapped:
            q, k, v = (x.reshape(2, 6, 4, 2).swapaxes(-1, -2) for x in (q, k, v))
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / (2.0 if scaled else 1.0)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores, axis), v)
        return nn.DenseGeneral(8, (-2, -1), name="out")(mixed)

    return module(call)


CASES = {
    "eps": (nn.LayerNorm(epsilon=1e-6), nn.LayerNorm(epsilon=1e-3), X, "eps is 0.001"),
    "eps of a group norm": (nn.GroupNorm(2), nn.GroupNorm(2, epsilon=1e-2), IMAGE, "eps is 0.01"),
    "mean of a layer norm": (nn.LayerNorm(use_bias=False), nn.RMSNorm(), X, "does not subtract the mean"),
    "number of groups": (nn.GroupNorm(4), nn.GroupNorm(2), np.tile(IMAGE, 2), "number of groups"),
    "tanh GELU": (module(lambda x: nn.gelu(x, approximate=False)), module(nn.gelu), X, "exact and tanh"),
    "activation": (module(nn.silu), module(nn.relu), X, "the activation is ReLU"),
    "hard SiLU": (module(nn.silu), module(nn.hard_silu), X, "SiLU is its hard form"),
    "softmax": (module(nn.softmax), module(lambda x: nn.softmax(x, 1)), X, "softmax is over the axis 1 before"),
    "stride and SAME": (
        nn.Conv(3, (3, 3), (2, 2), padding=1),
        nn.Conv(3, (3, 3), (2, 2), padding="SAME"),
        IMAGE[:, :, :6],
        "padding is SAME",
    ),
    "pool": (
        module(lambda x: nn.avg_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)))),
        module(lambda x: nn.avg_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)), count_include_pad=False)),
        IMAGE,
        "count_include_pad",
    ),
    "resize": (
        module(lambda x: jax.image.resize(x, (2, 3, 4, 4), "bilinear")),
        module(lambda x: jax.image.resize(x, (2, 3, 4, 4), "bilinear", antialias=False)),
        IMAGE,
        "antialias is the other one",
    ),
    "scale": (attention(), attention(scaled=False), X, "a constant factor .* is missing"),
    "axis of attention": (attention(), attention(axis=-2), X, "softmax is over the axis 1 before"),
    "order of heads": (attention(), attention(swapped=True), X, "the heads are split in the order"),
    "residual": (
        module(lambda x: x + nn.Dense(8)(nn.LayerNorm()(x))),
        module(lambda x: nn.Dense(8)(nn.LayerNorm()(x))),
        X,
        "residual",
    ),
}


FIRST = "eps"  # of the default suite; the others take seconds each


@pytest.mark.parametrize("name", [FIRST, *(pytest.param(n, marks=pytest.mark.slow) for n in CASES if n != FIRST)])
def test_the_cause_is_named_where_the_reference_is_a_linen_module(name):
    reference, port, x, expected = CASES[name]
    variables = drawn(reference, x)
    shared = {"params": {k: variables["params"][k] for k in drawn(port, x)["params"]}} if variables else {}
    assert re.search(expected, said((reference, variables), (port, shared), x))


def test_a_right_port_and_a_fault_of_no_hypothesis_have_no_cause():
    reference = module(nn.silu)
    assert said((reference, {}), (module(lambda x: x * nn.sigmoid(x)), {}), X) == ""
    assert said((reference, {}), (module(lambda x: x * nn.sigmoid(1.3 * x)), {}), X) == ""


def test_what_cannot_be_replayed_has_no_cause():
    reference = module(lambda x: jax.lax.cond(x[0, 0, 0] > 0, jnp.sin, jnp.cos, x))
    assert said((reference, {}), (module(jnp.tan), {}), X) == ""


@pytest.mark.slow
def test_nnx_modules_and_keras_layers_on_jax_have_causes_too():
    layers = [nnx.LayerNorm(8, epsilon=eps, rngs=nnx.Rngs(0)) for eps in (1e-5, 1e-2)]
    assert re.search("eps is 0.01", said(*layers, X))
    kernels = [nnx.Conv(4, 4, (3, 3), rngs=nnx.Rngs(0)) for _ in range(2)]
    kernels[1].kernel[...] = kernels[1].kernel[...].swapaxes(0, 1)
    assert re.search("height and width exchanged", said(*kernels, IMAGE))
