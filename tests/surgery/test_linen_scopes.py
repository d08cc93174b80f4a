"""Linen modules beside the network's own: without a scope, applied inside with variables of their own, with a
constructor of their own, called by another method. A site is a path below the network's root, and no other path."""

from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from eca_multi.flax.linen import infer_plan, insert_eca, installed_eca, plan_eca, remove_eca
from eca_multi.flax.linen.surgery._wrap import gating
from eca_multi.flax.nnx import plan_eca as nnx_plan_eca
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError, VerifyError
from tests.support.networks_linen import equal, image, randomised, trained

X = image(2, 6, 5, 3)


class Identity(nn.Module):
    """Its own constructor calls no other: flax gives the module no scope."""

    def __init__(self, *args):
        pass

    def __call__(self, x):
        return x


class Block(nn.Module):
    shortcut: Any = Identity

    @nn.compact
    def __call__(self, x):
        y = nn.GroupNorm(2, name="norm")(nn.Conv(8, (3, 3), name="conv")(x))
        return nn.relu(self.shortcut(8)(x) + y)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), name="stem")(x)
        return Block(name="block")(x)


def test_a_child_without_a_scope():
    variables = trained(Net(), X)
    with_eca, more = insert_eca(Net(), variables, example_inputs=X)
    assert installed_eca(with_eca).paths == ("block/norm",)
    more = randomised(with_eca, more)
    assert np.abs(with_eca.apply(more, X) - Net().apply(variables, X)).max() > 1e-2


class Distilled(nn.Module):
    """A student beside a frozen teacher of the same class: the teacher's paths are the student's."""

    teacher: Any
    teacher_variables: Any

    @nn.compact
    def __call__(self, x):
        known = self.teacher.apply(self.teacher_variables, x)
        return nn.Conv(8, (3, 3), name="stem")(known) + Block(name="block")(nn.Conv(8, (1, 1), name="in")(x))


def test_a_frozen_teacher_is_not_gated():
    teacher = trained(Net(), X, seed=5)
    net = Distilled(Net(), teacher)
    variables = trained(net, X)
    plan = plan_eca(net, variables, ["block/norm"], example_inputs=X)
    assert [entry.calls for entry in plan.entries] == [1]
    with_eca, more = insert_eca(net, variables, plan=plan, example_inputs=X)
    more = randomised(with_eca, more)
    inner = with_eca.clone(teacher_variables=jax.tree.map(jnp.zeros_like, teacher))
    plain = net.clone(teacher_variables=jax.tree.map(jnp.zeros_like, teacher))
    # The teacher's part is the same with the student's gates and without.
    with jax.disable_jit():
        parts = [a.apply(v, X) - b.apply(v, X) for a, b, v in ((with_eca, inner, more), (net, plain, variables))]
    np.testing.assert_allclose(*parts, rtol=1e-4, atol=1e-5)
    assert np.abs(with_eca.apply(more, X) - net.apply(variables, X)).max() > 1e-3


@pytest.mark.slow
def test_a_teacher_keeps_its_own_gates():
    """Gated itself, of the same class and with the same sites as the student around it."""
    teacher, its = insert_eca(Net(), trained(Net(), X, seed=5), example_inputs=X, verify=False)
    its = randomised(teacher, its)
    net = Distilled(teacher, its)
    variables = trained(net, X)
    with_eca, more = insert_eca(net, variables, ["block/norm"], example_inputs=X)
    assert equal(with_eca.apply(more, X), net.apply(variables, X))  # the student's kernels are zeros
    ungated = Distilled(Net(), its)
    assert np.abs(net.apply(variables, X) - ungated.apply(variables, X)).max() > 1e-3


class Hyper(nn.Module):
    """The parameters of the layer inside are outputs of a layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), name="stem")(x)
        kernel = nn.Dense(8 * 8, name="made")(x.mean((0, 1, 2))).reshape(1, 1, 8, 8)
        y = nn.Conv(8, (1, 1), use_bias=False, parent=None).apply({"params": {"kernel": kernel}}, x)
        return x + nn.GroupNorm(2, name="norm")(y)


@pytest.mark.slow
def test_a_hypernetwork():
    variables = trained(Hyper(), X)
    with_eca, more = insert_eca(Hyper(), variables, example_inputs=X)
    assert installed_eca(with_eca).paths == ("norm",)
    assert plan_eca(Hyper(), variables, "conv", example_inputs=X).paths == ("stem",)
    assert remove_eca(with_eca, more)[0] == Hyper()


def registered(cls):
    """Decorate the constructor, as diffusers does: it takes options that are no fields, and keeps a record."""
    made = cls.__init__

    @wraps(made)
    def init(self, *args, legacy=None, **fields):
        object.__setattr__(self, "config", dict(fields))
        made(self, *args, **fields)

    cls.__init__ = init
    return cls


@registered
class Registered(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x):
        return Block(name="block")(nn.Conv(self.width, (3, 3), name="stem")(x))


def test_a_decorated_constructor_is_kept():
    net = Registered(legacy=3, width=8)
    with_eca, _ = insert_eca(net, trained(net, X), example_inputs=X)
    assert with_eca.config["width"] == 8
    assert type(with_eca)(legacy=3, width=8) == with_eca


class Coder(nn.Module):
    def setup(self):
        self.stem, self.block = nn.Conv(8, (3, 3)), Block()

    def encode(self, x):
        return self.block(self.stem(x))

    def __call__(self, x):
        return self.stem(x)


def test_another_method_is_named():
    net = Coder()
    variables = net.init(jax.random.key(0), X, method="encode")
    with pytest.raises(NoSiteError, match="for where='residual'"):
        plan_eca(net, variables, example_inputs=X)
    plan = plan_eca(net, variables, example_inputs=X, method="encode")
    assert plan.paths == ("block/norm",)
    with_eca, more = insert_eca(net, variables, plan=plan, example_inputs=X, method="encode")
    assert infer_plan(net, more, example_inputs=X, method="encode") == plan
    changed = with_eca.apply(randomised(with_eca, more), X, method="encode")
    assert np.abs(changed - net.apply(variables, X, method="encode")).max() > 1e-3
    with pytest.raises(ValueError, match="Received: 'decode', which Coder lacks"):
        plan_eca(net, variables, example_inputs=X, method="decode")
    with pytest.raises(TypeError, match=r"method must be the name of a method of the module\. Received: function"):
        plan_eca(net, variables, example_inputs=X, method=Coder.encode)


class Encoder(nn.Module):
    def setup(self):
        self.block = Block()

    def encode(self, x):
        return self.block(x)


def test_a_network_without_a_call_is_told_to_name_its_method():
    with pytest.raises(ValueError, match=r"Received: '__call__', which Encoder lacks\. Pass the name of the one"):
        plan_eca(Encoder(), {"params": {}}, example_inputs=X)


class Spread(nn.Module):
    """Its norm averages over devices."""

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.Conv(3, (3, 3), name="conv")(x)
        return x + nn.BatchNorm(not train, axis_name="devices", name="norm")(y)


def test_a_norm_over_devices_is_planned_in_evaluation_mode():
    variables = trained(Spread(), X)
    message = "must run on example_inputs by itself. Received: .*unbound axis name.*plan in evaluation mode"
    with pytest.raises(UnsupportedModelError, match=message):
        plan_eca(Spread(), variables, example_inputs=(X, True))
    assert plan_eca(Spread(), variables, example_inputs=X).paths == ("norm",)


def of_library(name):
    """A class as another library's would be: the module's name alone tells it."""
    return type("Conv2d", (), {"__module__": f"{name}.nn._conv"})


@pytest.mark.parametrize(("library", "called"), [("equinox", "Equinox"), ("haiku._src", "Haiku")])
def test_other_libraries_are_named(library, called):
    message = f"Received: Conv2d. Surgery takes no {called} networks: call eca_multi.jax.eca"
    with pytest.raises(TypeError, match=message):
        plan_eca(of_library(library)(), {"params": {}}, example_inputs=X)
    with pytest.raises(TypeError, match=message):
        nnx_plan_eca(of_library(library)(), example_inputs=X)
    with pytest.raises(TypeError, match=r"Received: object\. For an nnx module"):
        plan_eca(object(), {"params": {}}, example_inputs=X)


def test_a_gate_over_another_axis_is_found(monkeypatch):
    """At the identity a gate over rows looks as one over channels does; with other kernels it does not."""
    x = image(2, 8, 6, 8)  # as many rows as channels
    net = Block()
    variables = trained(net, x)
    insert_eca(net, variables, example_inputs=x)
    layer = gating.Site.layer
    monkeypatch.setattr(
        gating.Site, "layer", lambda site, scope: layer(site, scope).clone(channel_axis=1, parent=scope)
    )
    with pytest.raises(VerifyError, match="norm: with a kernel off the identity, it is not ECA over axis -1"):
        insert_eca(net, variables, example_inputs=x)
