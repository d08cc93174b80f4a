"""ECA inserted in nnx networks: bit-equal outputs, gradients at every kernel, shared and stacked modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eca_multi.flax.nnx import (
    ECA,
    ECAParam,
    eca_parameters,
    insert_eca,
    installed_eca,
    plan_eca,
    remove_eca,
)
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from tests.support import networks_nnx as networks
from tests.support.networks_nnx import Conv
from tests.support.surgery_nnx import NETS, X, build, everything, randomise_kernels, run, small

HEAVY = {"bottleneck", "inverted-residual", "convnext", "stacked"}  # as "resnet", with more to compile


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in HEAVY)) for n in NETS])
def test_outputs_stay_equal_and_every_kernel_learns(name):
    model, x = build(name, training=True)
    plain = everything(model)
    before = {"train": run(model, x)}
    model.eval()
    before["eval"] = run(model, x)
    model.train()
    assert insert_eca(model, example_inputs=x, verify=False) is model
    assert run(model, x).tobytes() == before["train"].tobytes()
    model.eval()
    assert run(model, x).tobytes() == before["eval"].tobytes()

    cotangent = jax.random.normal(jax.random.key(9), before["eval"].shape)
    gradient = nnx.jit(nnx.grad(lambda m, x: (m(x) * cotangent).sum(), argnums=nnx.DiffState(0, ECAParam)))
    for kernel in jax.tree.leaves(gradient(nnx.clone(model), x)):
        assert (np.abs(kernel).max(axis=(-3, -2, -1)) > 0).all()

    randomise_kernels(model)
    change = np.abs(run(model, x) - before["eval"]).max() / np.abs(before["eval"]).max()
    assert change > (1e-9 if name == "convnext" else 1e-3)  # a layer scale of 1e-6 would hide it

    remove_eca(model)
    model.train()
    assert everything(model) == plain


@pytest.mark.parametrize("where", ["block", "conv_norm", "conv", "norm"])
def test_other_places_stay_equal(where):
    model, x = build("inverted-residual")
    before = run(model, x)
    insert_eca(model, where, example_inputs=x, verify=False)
    assert run(model, x).tobytes() == before.tobytes()


def test_it_is_verified_where_inputs_are_given():
    model, x = build("pre-activation", training=True)
    plain = everything(model)
    insert_eca(model, "conv_norm", example_inputs=x, verify=True)
    remove_eca(model)
    assert everything(model) == plain  # the runs moved no statistics and drew no random numbers


def test_shapes_without_values_cannot_be_verified():
    model = nnx.eval_shape(lambda: networks.Rank(1, rngs=nnx.Rngs(0)))
    shapes = jax.ShapeDtypeStruct((2, 16, 2), jnp.float32)
    with pytest.raises(UnsupportedModelError, match=r"verify=True must run the network\. Received: shapes in place"):
        insert_eca(model, "norm", example_inputs=shapes, verify=True)
    assert installed_eca(insert_eca(model, "norm", example_inputs=shapes)).paths == ("norm",)


def test_a_layer_scale_of_ordinary_size_shows_the_change():
    model, x = build("convnext")
    for block in model.blocks:
        block.scale[...] = jnp.linspace(0.5, 1.5, 8)
    before = run(model, x)
    insert_eca(model, example_inputs=x, verify=False)
    assert run(model, x).tobytes() == before.tobytes()
    randomise_kernels(model)
    assert np.abs(run(model, x) - before).max() / np.abs(before).max() > 1e-2


def test_squeeze_and_excitation_is_replaced():
    model, x = build("inverted-residual")
    before, size = run(model, x), len(jax.tree.leaves(nnx.state(model)))
    plan = plan_eca(model, "se", example_inputs=x)
    assert not plan.keeps_output
    assert plan.entries[0].notes[-1] == "the SE block is replaced, its 318 parameters are dropped"
    insert_eca(model, plan=plan, example_inputs=x)
    assert len(jax.tree.leaves(nnx.state(model))) == size - 3 * 4 + 3
    assert isinstance(model.blocks[0].se, ECA)
    assert np.isfinite(run(model, x)).all()
    assert not np.array_equal(run(model, x), before)
    assert [e.action for e in installed_eca(model).entries] == ["replace"] * 3
    with pytest.raises(UnsupportedModelError, match=r"blocks.0.se.*whose weights were dropped"):
        remove_eca(model)


def test_the_papers_start_changes_the_outputs_and_says_so():
    model = small()
    before = run(model)
    plan = plan_eca(model, example_inputs=X, gate="sigmoid", init="uniform")
    assert "outputs will change" in plan.notes[0]
    insert_eca(model, plan=plan, verify=False)
    kernels = [np.ravel(k) for k in jax.tree.leaves(eca_parameters(model))]
    assert all(np.abs(k).max() <= 3**-0.5 and np.abs(k).max() > 0 for k in kernels)
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(run(model), before)
    again = insert_eca(small(), plan=plan, verify=False)
    assert everything(again) == everything(model)  # it follows from the paths, not from a stream


def test_a_copy_is_changed_on_request():
    model = small()
    before = everything(model)
    other = insert_eca(model, example_inputs=X, inplace=False, verify=False)
    assert other is not model
    assert everything(model) == before
    assert len(installed_eca(other).entries) == 2


def test_a_second_call_never_nests():
    model = insert_eca(small(), example_inputs=X, include=["layers.0.0.bn2"], verify=False)
    once = everything(model)
    plan = plan_eca(model, example_inputs=X)
    assert plan.paths == ("layers.1.0.bn2",)
    assert plan.skipped[0].reason == "already has ECA"
    insert_eca(model, example_inputs=X, include=["layers.0.0.bn2"])
    assert everything(model) == once
    insert_eca(model, example_inputs=X, verify=False)
    assert insert_eca(model, "norm", include=r".*bn2") is model
    assert len(installed_eca(model).entries) == 2


def test_the_kernel_is_as_the_sites_parameters():
    model = nnx.Sequential(Conv(3, 8, (3, 3), param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    kernel = insert_eca(model, "conv").layers[0].eca.kernel
    assert kernel.dtype == jnp.bfloat16
    assert kernel.get_value().devices() == model.layers[0].kernel.get_value().devices()


def test_bfloat16_stays_equal():
    model = nnx.Sequential(Conv(3, 8, (3, 3), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)), nnx.relu)
    before = model(X)
    insert_eca(model, "conv", example_inputs=X)
    assert model(X).dtype == jnp.bfloat16
    assert np.array_equal(model(X), before)


def test_channels_first():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(4, axis=1, use_running_average=True, rngs=rngs)

        def __call__(self, x):
            return self.norm(x)

    model = insert_eca(Net(nnx.Rngs(0)), "norm", example_inputs=jnp.ones((2, 4, 6, 6)))
    assert model.norm.eca.channel_axis == 1
    assert installed_eca(model).entries[0].layout == "channels_first"


def test_arguments_pass_through_a_site():
    model = nnx.Dict(norm=nnx.BatchNorm(3, rngs=nnx.Rngs(0)), conv=nnx.ConvTranspose(3, 3, (2, 2), rngs=nnx.Rngs(0)))

    class Net(nnx.Module):
        def __init__(self, parts):
            self.parts = parts

        def __call__(self, x):
            return self.parts["conv"](self.parts["norm"](x, use_running_average=True))

    net = insert_eca(Net(model), "conv_norm", example_inputs=X)
    assert installed_eca(net).paths == ("parts.conv",)
    insert_eca(net, "norm", example_inputs=X)
    assert net(X).shape == (2, 16, 16, 3)


class Shared(nnx.Module):
    """One norm under four names: an attribute, a list, a dict and a Sequential."""

    def __init__(self, rngs):
        self.conv = Conv(3, 3, (3, 3), rngs=rngs)
        self.norm = nnx.GroupNorm(3, num_groups=1, rngs=rngs)
        self.listed = nnx.List([self.norm])
        self.named = nnx.Dict(norm=self.norm)
        self.chained = nnx.Sequential(self.norm, nnx.relu)

    def __call__(self, x):
        x = x + self.norm(self.conv(x))
        return self.chained(self.named["norm"](self.listed[0](x)))


def test_a_shared_module_gets_one_eca():
    model = Shared(nnx.Rngs(0))
    plain = everything(model)
    before = run(model)
    (entry,) = plan_eca(model, example_inputs=X).entries
    assert (entry.path, entry.aliases) == ("norm", ("listed.0", "named.norm", "chained.layers.0"))
    assert entry.calls == 4
    assert "its output goes elsewhere too" not in " ".join(entry.notes)
    insert_eca(model, ["chained.layers.0"], example_inputs=X)
    assert model.norm.eca is model.listed[0].eca is model.named["norm"].eca
    assert len(jax.tree.leaves(eca_parameters(model))) == 1
    assert run(model).tobytes() == before.tobytes()
    remove_eca(model, include=["named.norm"])
    assert everything(model) == plain


def test_stacked_blocks_have_a_kernel_each():
    model, x = build("stacked")
    (entry,) = plan_eca(model, example_inputs=x).entries
    assert entry.parameters == 9
    assert entry.notes == ("stacked 3: a kernel for each",)
    insert_eca(model, example_inputs=x)
    assert model.stack.norm.eca.kernel.shape == (3, 3, 1, 1)
    assert installed_eca(model).entries[0].parameters == 9


def test_stacked_blocks_are_seen_without_a_run():
    model, _ = build("stacked")
    plan = plan_eca(model, ["stem", "stack.norm", "stack.conv"])
    assert {e.path: e.parameters for e in plan.entries} == {"stem": 3, "stack.norm": 9, "stack.conv": 9}
    insert_eca(model, plan=plan)
    assert sorted(e.parameters for e in installed_eca(model).entries) == [3, 9, 9]


def test_blocks_stacked_along_another_axis_are_skipped():
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=(0,), out_axes=nnx.StateAxes({...: 1}))
    def build(rngs):
        return Conv(2, 2, (3, 3), rngs=rngs)

    class Net(nnx.Module):
        def __init__(self):
            self.stack = build(nnx.Rngs(0))

        def __call__(self, x):
            return nnx.vmap(lambda m, x: m(x), in_axes=(nnx.StateAxes({...: 1}), None))(self.stack, x)

    for inputs in (None, jnp.ones((1, 4, 4, 2))):
        with pytest.raises(NoSiteError, match="stacked along an axis other than the first"):
            plan_eca(Net(), "conv", example_inputs=inputs)
