"""Linen networks with ECA as modules: methods, copies, nesting, transformations, a second insertion, undo."""

import copy
import pickle
from functools import partial

import jax
import numpy as np
import pytest
from flax import linen as nn

from eca_multi.flax import linen as own
from eca_multi.flax.linen import ECA, insert_eca, installed_eca, plan_eca, remove_eca
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from tests.support.networks_linen import (
    KEY,
    NETWORKS,
    SetupNet,
    equal,
    flat,
    gated,
    image,
    network,
    randomised,
    trained,
)

# --- what can be done with the module ------------------------------------------------------------------------------


def test_it_is_of_the_same_class():
    with_eca, _, _ = gated("setup")
    assert isinstance(with_eca, SetupNet)
    assert type(with_eca).__name__ == "SetupNet"
    assert with_eca.width == 8
    assert repr(with_eca) == repr(SetupNet())
    assert "blocks_0/bn2 (k=3)" in repr(type(with_eca).eca_sites)


def test_equality_and_hash():
    module, variables, x = network("setup")
    with_eca, _, _ = gated("setup")
    again, _ = insert_eca(SetupNet(), variables, example_inputs=x, verify=False)
    fewer, _ = insert_eca(module, variables, example_inputs=x, exclude="twice/bn2", verify=False)
    assert again == with_eca
    assert hash(again) == hash(with_eca)
    assert with_eca not in (fewer, module)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.copy()]
)
def test_copies(copied):
    with_eca, variables, x = gated("setup")
    other = copied(with_eca)
    assert other == with_eca
    assert type(other) is type(with_eca)
    changed = randomised(with_eca, variables)
    assert equal(other.apply(changed, x), with_eca.apply(changed, x))


def test_bind_and_tabulate():
    with_eca, variables, x = gated("setup")
    changed = randomised(with_eca, variables)
    assert equal(with_eca.bind(changed)(x), with_eca.apply(changed, x))
    assert "twice/bn2/eca" in with_eca.tabulate(KEY, x, console_kwargs={"width": 200})


METHODS = {
    "by its name": "features",
    "of the class": SetupNet.features,
    "bound": lambda: gated("setup")[0].features,
    "another function": lambda: lambda module, x: module.features(x),
}


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_are_gated(method):
    with_eca, variables, x = gated("setup")
    module, old, _ = network("setup")
    chosen = METHODS[method]() if method in ("bound", "another function") else METHODS[method]
    before = module.apply(old, x, method="features")
    assert equal(with_eca.apply(variables, x, method=chosen), before)
    changed = with_eca.apply(randomised(with_eca, variables), x, method=chosen)
    assert np.abs(changed - before).max() > 1e-3
    assert not set(flat(jax.eval_shape(partial(with_eca.init, method=chosen), KEY, x))) - set(flat(variables))


def test_a_submodule_called_by_a_function_is_gated():
    with_eca, variables, _ = gated("setup")
    changed, wide = randomised(with_eca, variables), image(2, 8, 8, 8)
    calls = [m.apply(changed, wide, method=lambda m, x: m.twice(x)) for m in (SetupNet(), with_eca)]
    assert np.abs(calls[0] - calls[1]).max() > 1e-3


class Holder(nn.Module):
    net: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(self.net(x)) + self.net(2 * x).sum()


class Around(nn.Module):
    made: type[nn.Module] = SetupNet

    @nn.compact
    def __call__(self, x):
        return nn.relu(self.made()(x))


def test_nested_in_another_module():
    """As a field and under a name of its own, paths are those of the plain module there."""
    with_eca, _, x = gated("setup")
    module, _, _ = network("setup")
    for plain, more in (
        (Holder(module), Holder(with_eca)),
        (Around(), Around(type(with_eca))),
    ):
        old, new = (flat(jax.eval_shape(m.init, KEY, x)) for m in (plain, more))
        assert {path.split("/")[-1] for path in set(new) - set(old)} == {"kernel"}
        assert len(set(new) - set(old)) == 3
        assert old.keys() < new.keys()
    variables = trained(Holder(with_eca), x)
    with_kernels, without = Holder(with_eca).apply(variables, x), Holder(module).apply(variables, x)
    assert np.abs(with_kernels - without).max() > 1e-3


def test_surgery_around_a_network_with_eca():
    with_eca, _, x = gated("setup")
    holder = Holder(with_eca)
    plan = plan_eca(holder, trained(holder, x), ["net/stem", "net/twice/bn2"], example_inputs=x)
    assert plan.paths == ("net/stem",)
    assert [(one.path, one.reason) for one in plan.skipped] == [("net/twice/bn2", "already has ECA")]
    _, variables = insert_eca(holder, trained(holder, x), plan=plan, example_inputs=x, verify=False)
    assert sum("eca/kernel" in path for path in flat(variables)) == 4


@pytest.mark.slow
def test_lifted_around_the_network():
    """An ensemble of the network with ECA, and the network under remat."""
    with_eca, variables, x = gated("setup")
    many = nn.vmap(
        type(with_eca),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        axis_size=2,
        in_axes=None,
    )()
    assert flat(trained(many, x))["params/twice/bn2/eca/kernel"].shape == (2, 3, 1, 1)
    assert jax.eval_shape(many.apply, trained(many, x), x).shape == (2, 2, 10)
    less = nn.remat(type(with_eca))()
    with pytest.raises(UnsupportedModelError, match=r"Received: CheckpointSetupNet, .* with ECA"):
        remove_eca(less, variables)
    changed = randomised(with_eca, variables)
    np.testing.assert_allclose(less.apply(changed, x), with_eca.apply(changed, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lift", [nn.remat, nn.jit])
def test_a_network_that_is_lifted(lift):
    _, variables, x = network("setup")
    plain = lift(SetupNet)()
    with_eca, more = insert_eca(plain, variables, example_inputs=x, verify=False)
    expected = gated("setup")[0].apply(randomised(with_eca, more), x)
    np.testing.assert_allclose(with_eca.apply(randomised(with_eca, more), x), expected, rtol=1e-4, atol=1e-5)
    assert remove_eca(with_eca, more)[0] == plain


class Child(nn.GroupNorm):
    """Calls the method of its parent class, which is one more call at the same path."""

    @nn.compact
    def __call__(self, x):
        return super().__call__(x)


def test_a_call_of_super_is_gated_once():
    net = nn.Sequential([nn.Conv(8, (3, 3)), Child(2)])
    x = image()
    variables = trained(net, x)
    with_eca, more = insert_eca(net, variables, "conv_norm", example_inputs=x)  # verified, too
    more = randomised(with_eca, more)
    layer = ECA(gate="2sigmoid")
    expected = layer.apply({"params": more["params"]["layers_1"]["eca"]}, net.apply(variables, x))
    np.testing.assert_allclose(with_eca.apply(more, x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_two_networks_at_once():
    """A teacher in the same trace keeps its own kernels."""
    with_eca, variables, x = gated("setup")
    teacher, student = variables, randomised(with_eca, variables)
    pair = jax.jit(lambda a, b: (with_eca.apply(a, x), with_eca.apply(b, x)))(teacher, student)
    np.testing.assert_allclose(pair[0], with_eca.apply(teacher, x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pair[1], with_eca.apply(student, x), rtol=1e-5, atol=1e-6)


# --- again, and back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_undo_is_exact(name):
    module, variables, _ = network(name)
    with_eca, more, _ = gated(name)
    back, old = remove_eca(with_eca, more)
    assert back == module
    assert type(back) is type(module)
    assert jax.tree.structure(old) == jax.tree.structure(variables)
    assert all(a is b for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(variables), strict=True))


def test_a_second_insertion_does_nothing():
    with_eca, variables, x = gated("setup")
    again, same = insert_eca(with_eca, variables, example_inputs=x)
    assert again is with_eca
    assert same is variables
    assert {one.reason for one in plan_eca(with_eca, variables, example_inputs=x).skipped} == {"already has ECA"}


def test_a_second_insertion_elsewhere_is_merged():
    module, old, x = network("setup")
    with_eca, variables, _ = gated("setup")
    more, longer = insert_eca(with_eca, variables, "norm", example_inputs=x, verify=False)
    once, _ = insert_eca(module, old, "norm", example_inputs=x, verify=False)
    assert installed_eca(more).paths == installed_eca(once).paths
    assert type(more).__mro__[1] is SetupNet
    assert len(own.eca_parameters(more, longer)["twice"]) == 2
    with pytest.raises(ValueError, match="gate must be that of the ECAs that the module has, '2sigmoid'"):
        insert_eca(with_eca, variables, ["stem"], gate="sigmoid", init="uniform", example_inputs=x)


def test_some_can_be_removed():
    with_eca, variables, _ = gated("setup")
    fewer, rest = remove_eca(with_eca, variables, include="blocks_.*")
    assert installed_eca(fewer).paths == ("twice/bn2",)
    assert "eca" not in rest["params"]["blocks_0"]["bn2"]
    with pytest.raises(NoSiteError, match=r"include must match a site of the model\. Received: 'layer"):
        remove_eca(with_eca, variables, include="layer.*")
    with pytest.raises(NoSiteError, match=r"The network must have ECA\. Received: a SetupNet without it"):
        remove_eca(*network("setup")[:2])
