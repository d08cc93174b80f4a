"""nnx networks that hold linen modules, random streams, shapes alone, and other methods than __call__."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from eca_multi.flax.nnx import base_state, insert_eca, load_base_state, plan_eca, remove_eca
from eca_multi.flax.nnx.surgery import insert
from eca_multi.flax.nnx.surgery._wrap import layer_for
from eca_multi.surgery.errors import UnsupportedModelError, VerifyError

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 5, 3)), jnp.float32)


class Branch(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.GroupNorm(2)(nn.Conv(8, (3, 3))(x))


class Bridged(nnx.Module):
    """A residual branch in linen, which gets each attribute of its bridge as a variable."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.branch = nnx.bridge.ToNNX(Branch(), rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        nnx.bridge.lazy_init(self.branch, jnp.ones((1, 6, 5, 8)))

    def encode(self, x):
        x = self.stem(x)
        return x + self.drop(self.branch(x))


class Called(Bridged):
    def __call__(self, x):
        return self.encode(x)


@pytest.fixture(scope="module")
def bridged():
    model = Called(nnx.Rngs(0))
    model.eval()
    return model


def test_a_linen_branch(bridged):
    model = nnx.clone(bridged)
    before, names = model(X), list(vars(model.branch))
    assert plan_eca(model, example_inputs=X).paths == ("branch",)
    assert list(vars(model.branch)) == names  # tracing left nothing
    insert_eca(model, example_inputs=X)  # verified
    model.branch.eca.kernel[...] = jnp.array([0.3, 0.5, -0.2]).reshape(3, 1, 1)
    after = model(X)
    assert np.abs(after - before).max() > 1e-2
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x))(model, X), after, rtol=1e-5, atol=1e-5)
    gradient = nnx.grad(lambda m: (m(X) ** 2).sum())(model)
    assert np.abs(gradient["branch"]["eca"]["kernel"].get_value()).max() > 1e-2
    remove_eca(model)
    assert list(vars(model.branch)) == names


def test_a_state_without_random_streams(bridged):
    """Keys and counts of a dropout are no weights: with them or without, the weights are loaded."""
    model = insert_eca(Called(nnx.Rngs(1)), ["branch"], example_inputs=X, verify=False)
    model.eval()
    state = base_state(bridged)
    count = model.drop.rngs.count.get_value()
    load_base_state(model, {name: part for name, part in state.items() if name != "drop"})
    assert model.drop.rngs.count.get_value() == count
    assert np.array_equal(model(X), bridged(X))
    load_base_state(model, state)
    with pytest.raises(ValueError, match="stem"):  # the control: a weight is demanded
        load_base_state(model, {name: part for name, part in state.items() if name != "stem"})


def test_shapes_alone(bridged):
    """Into what nnx.eval_shape returns; inside of its function the model is traced, and the message says so."""
    plan = plan_eca(bridged, example_inputs=X)
    abstract = insert_eca(nnx.eval_shape(lambda: Called(nnx.Rngs(0))), plan=plan)
    real = insert_eca(Called(nnx.Rngs(0)), plan=plan)
    shapes = [jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(one))) for one in (abstract, real)]
    assert shapes[0] == shapes[1]
    with pytest.raises(UnsupportedModelError, match=r"for shapes alone, on what nnx\.eval_shape"):
        nnx.eval_shape(lambda: insert_eca(Called(nnx.Rngs(0)), plan=plan))


class Spread(nnx.Module):
    """Its norm averages over devices."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, axis_name="devices", rngs=rngs)

    def __call__(self, x):
        return x + self.norm(self.conv(x))


def test_a_norm_over_devices_is_planned_in_evaluation_mode():
    model = Spread(nnx.Rngs(0))
    message = "must run on example_inputs by itself. Received: .*unbound axis name.*plan in evaluation mode"
    with pytest.raises(UnsupportedModelError, match=message):
        plan_eca(model, example_inputs=X)
    model.eval()
    assert plan_eca(model, example_inputs=X).paths == ("norm",)


def test_another_method():
    model = Bridged(nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"Received: '__call__', which Bridged lacks\. Pass the name of the one"):
        plan_eca(model, example_inputs=X)
    assert plan_eca(model, example_inputs=X, method="encode").paths == ("branch",)
    before = model.encode(X)
    model.eval()
    before = model.encode(X)
    insert_eca(model, example_inputs=X, method="encode")
    assert np.array_equal(model.encode(X), before)
    with pytest.raises(ValueError, match="Received: 'decode', which Bridged lacks"):
        plan_eca(model, example_inputs=X, method="decode")
    with pytest.raises(TypeError, match=r"method must be the name of a method of the module\. Received: function"):
        plan_eca(model, example_inputs=X, method=Bridged.encode)


def test_a_gate_over_another_axis_is_found(monkeypatch):
    """At the identity a gate over rows looks as one over channels does; with other kernels it does not."""

    def over_rows(*args):
        layer = layer_for(*args)
        layer.channel_axis = 1
        return layer

    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 5, 3)), jnp.float32)  # as many rows as channels
    model = Spread(nnx.Rngs(0))
    model.eval()
    insert_eca(nnx.clone(model), example_inputs=x)
    monkeypatch.setattr(insert, "layer_for", over_rows)
    with pytest.raises(VerifyError, match="norm: with a kernel off the identity, it is not ECA over axis -1"):
        insert_eca(model, example_inputs=x)


class OverSamples(nnx.Module):
    """Its block runs under nnx.vmap, on one sample at a time."""

    def __init__(self, rngs):
        self.block = Called(rngs)

    def __call__(self, x):
        return nnx.vmap(lambda block, one: block(one[None])[0], in_axes=(None, 0))(self.block, x)


def test_a_block_under_vmap_is_planned():
    """The axis of the channels is told without the axis of the vmap."""
    model = OverSamples(nnx.Rngs(0))
    plain = plan_eca(model.block, example_inputs=X).paths
    assert plan_eca(model, example_inputs=X).paths == tuple(f"block.{path}" for path in plain)
