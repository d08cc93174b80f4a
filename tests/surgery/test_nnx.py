"""ECA in nnx networks: which sites, bit-equal outputs, gradients at every kernel, exact undo, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eca_multi.flax.nnx import (
    ECA,
    ECAParam,
    eca_parameters,
    infer_plan,
    insert_eca,
    installed_eca,
    plan_eca,
    remove_eca,
)
from eca_multi.surgery.errors import NoSiteError, PlanMismatchError, UnsupportedModelError
from eca_multi.surgery.plan import ECAPlan
from tests.support import networks_nnx as networks
from tests.support.networks_nnx import Conv, Linear, filled, images

X = images((2, 16, 16, 3))
NETS = {  # network, input, residual sites with their channels
    "resnet": (
        lambda: networks.ResNet(blocks=(1, 1), rngs=nnx.Rngs(0)),
        X,
        {"layers.0.0.bn2": 8, "layers.1.0.bn2": 16},
    ),
    "bottleneck": (
        lambda: networks.ResNet(networks.Bottleneck, (1, 2), 4, rngs=nnx.Rngs(0)),
        X,
        {"layers.0.0.bn3": 16, "layers.1.0.bn3": 32, "layers.1.1.bn3": 32},
    ),
    "inverted-residual": (
        lambda: networks.MobileNet(rngs=nnx.Rngs(0)),
        X,
        {"blocks.0.bn3": 8, "blocks.2.bn3": 8},
    ),
    "convnext": (lambda: networks.ConvNeXt(rngs=nnx.Rngs(0)), X, {"blocks.0.down": 8, "blocks.1.down": 8}),
    "pre-activation": (lambda: networks.PreActivation(rngs=nnx.Rngs(0)), X, {"conv2": 8}),
    "sequences": (lambda: networks.Rank(1, rngs=nnx.Rngs(0)), images((2, 16, 2)), {"norm": 8}),
    "volumes": (lambda: networks.Rank(3, rngs=nnx.Rngs(0)), images((2, 4, 6, 5, 2)), {"norm": 8}),
    "stacked": (lambda: networks.Stacked(rngs=nnx.Rngs(0)), X, {"stack.norm": 8}),
}


def build(name="resnet", training=False):
    make, x, _ = NETS[name]
    model = filled(make)
    return (model.train() if training else model.eval()) or model, x


def small(**options):
    """A ResNet of two blocks: few operations to compile."""
    model = filled(lambda: networks.ResNet(blocks=(1, 1), rngs=nnx.Rngs(0), **options))
    model.eval()
    return model


def run(model, x=X):
    """Run a copy, so that its statistics and random streams stay; not compiled as a whole, which may round else."""
    return np.asarray(nnx.clone(model)(x))


def everything(model):
    """All that a change could change: the graph with its classes and attributes, and every number."""
    values = [
        np.asarray(jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v)
        for v in jax.tree.leaves(nnx.state(model))
    ]
    return nnx.graphdef(model), [(v.shape, v.dtype, v.tobytes()) for v in values]


def randomise_kernels(model, scale=0.5):
    for seed, kernel in enumerate(jax.tree.leaves(eca_parameters(model), is_leaf=lambda v: isinstance(v, ECAParam))):
        kernel[...] = scale * jax.random.normal(jax.random.key(seed), kernel.shape)


# --- sites -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NETS)
def test_residual_sites(name, training):
    model, x = build(name, training)
    plan = plan_eca(model, example_inputs=x)
    assert dict(zip(plan.paths, [e.channels for e in plan.entries], strict=True)) == NETS[name][2]
    assert {e.layout for e in plan.entries} == {"channels_last"}
    assert {e.calls for e in plan.entries} == {3 if name == "stacked" else 1}
    assert plan.skipped == ()
    assert plan.keeps_output


@pytest.mark.parametrize(
    ("block", "blocks", "last", "numbers"),
    [
        (networks.Basic, (2, 2, 2, 2), "bn2", 36),
        pytest.param(networks.Bottleneck, (3, 4, 6, 3), "bn3", 86, marks=pytest.mark.slow),
    ],
    ids=["resnet18", "resnet50"],
)
def test_networks_of_full_size_are_planned_from_their_shapes(block, blocks, last, numbers):
    model = nnx.eval_shape(lambda: networks.ResNet(block, blocks, 64, rngs=nnx.Rngs(0)))
    plan = plan_eca(model, example_inputs=jax.ShapeDtypeStruct((8, 56, 56, 3), jnp.float32))
    assert list(plan.paths) == [f"layers.{s}.{b}.{last}" for s, number in enumerate(blocks) for b in range(number)]
    assert plan.parameters == numbers
    insert_eca(model, plan=plan)
    assert sum(leaf.size for leaf in jax.tree.leaves(eca_parameters(model))) == numbers


@pytest.mark.parametrize(
    ("name", "where", "paths"),
    [
        ("inverted-residual", "block", [f"blocks.{i}.bn3" for i in range(3)]),
        ("inverted-residual", "se", [f"blocks.{i}.se" for i in range(3)]),
        ("resnet", "block", list(NETS["resnet"][2])),
        ("pre-activation", "conv", ["stem", "conv1", "conv2"]),
        ("pre-activation", "norm", ["norm1", "norm2"]),
        ("pre-activation", "conv_norm", ["norm1", "norm2", "conv2"]),
        ("bottleneck", lambda path, module: path.endswith("downsample.layers.1"), None),
        ("pre-activation", ["conv2", "stem"], ["stem", "conv2"]),
    ],
    ids=["block", "se", "block of all", "conv", "norm", "conv_norm", "callable", "list"],
)
def test_other_places(name, where, paths):
    model, x = build(name)
    paths = paths or ["layers.0.0.downsample.layers.1", "layers.1.0.downsample.layers.1"]
    assert sorted(plan_eca(model, where, example_inputs=x).paths) == sorted(paths)


def test_without_a_run_the_norm_is_the_next_in_the_order_of_definition():
    model = networks.PreActivation(rngs=nnx.Rngs(0))
    assert plan_eca(model, "conv_norm").paths == ("norm1", "norm2", "conv2")
    block = networks.Basic(3, 4, rngs=nnx.Rngs(0))
    assert plan_eca(block, "conv_norm").paths == ("bn1", "bn2", "down_bn")
    assert sorted(plan_eca(block, "conv_norm", example_inputs=X).paths) == ["bn1", "bn2", "down_bn"]


def test_a_copy_has_lost_that_order_and_says_so():
    copy = nnx.clone(networks.PreActivation(rngs=nnx.Rngs(0)))
    with pytest.raises(NoSiteError, match="which norm follows it cannot be told without a run: pass example_inputs"):
        plan_eca(copy, "conv_norm")
    assert plan_eca(copy, "conv_norm", example_inputs=X).paths == ("norm1", "norm2", "conv2")


def test_the_printed_plan():
    text = str(plan_eca(small(), example_inputs=X))
    assert "layers.{0-1}.0.bn2" not in text  # another number of channels is another row
    assert "layers.1.0: residual branch of the add" in text
    assert "2 ECAs, 6 new parameters" in text
    assert "outputs stay bit-equal" in text


def test_patterns_and_sizes():
    model = small()
    plan = plan_eca(model, example_inputs=X, include=r"layers\.1.*", overrides={".*": {"kernel_size": 7}})
    assert [(e.path, e.kernel_size, e.parameters) for e in plan.entries] == [("layers.1.0.bn2", 7, 7)]
    assert plan.skipped[0].reason == "not in include"
    assert plan_eca(model, "norm", min_channels=16).paths == ("layers.1.0.bn1", "layers.1.0.bn2", "layers.1.0.down_bn")


def test_inputs_by_keyword_with_flags():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = Conv(3, 3, (3, 3), rngs=rngs)

        def __call__(self, image, *, skip):
            return image + self.conv(image) if skip else image

    model = Net(nnx.Rngs(0))
    assert plan_eca(model, example_inputs={"image": X, "skip": True}).paths == ("conv",)
    with pytest.raises(NoSiteError, match="no candidate"):
        plan_eca(model, example_inputs={"image": X, "skip": False})


def test_what_cannot_be_gated_is_skipped_with_a_reason():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = Conv(3, 8, (3, 3), rngs=rngs)
            self.unused = Conv(3, 8, (3, 3), rngs=rngs)
            self.tokens = nnx.LayerNorm(8, rngs=rngs)
            self.flat = nnx.LayerNorm(8, rngs=rngs)
            self.own = nnx.BatchNorm(8, rngs=rngs)
            self.own.eca = Linear(1, 1, rngs=rngs)

        def __call__(self, x):
            x = self.own(self.conv(x))
            return self.flat(self.tokens(x.reshape(len(x), -1, 8)).mean(1))

    model = Net(nnx.Rngs(0))
    with pytest.raises(NoSiteError, match=r"own: has something of its own named 'eca'"):
        plan_eca(model, "norm", example_inputs=X)
    plan = plan_eca(model, lambda path, module: True, example_inputs=X)
    assert plan.paths == ("conv",)
    reasons = {one.path: one.reason for one in plan.skipped}
    assert "which no convolution's has" in reasons["tokens"]
    assert "rank 2" in reasons["flat"]
    assert reasons["unused"] == "not called on these inputs"
    assert reasons[""] == "it is the model itself"


def test_planning_changes_nothing():
    model, x = build("inverted-residual", training=True)
    before = everything(model)
    for where in ("residual", "block", "conv_norm", "se"):
        plan_eca(model, where, example_inputs=x)
    assert everything(model) == before


# --- insertion -------------------------------------------------------------------------------------------------------


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


# --- shared and stacked modules --------------------------------------------------------------------------------------


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


# --- plans -----------------------------------------------------------------------------------------------------------


def test_a_saved_plan_makes_the_same_network(tmp_path):
    model = small()
    plan_eca(model, example_inputs=X).save(tmp_path / "plan.json")
    insert_eca(model, example_inputs=X, verify=False)
    fresh = insert_eca(small(), plan=ECAPlan.load(tmp_path / "plan.json"))
    assert nnx.graphdef(fresh) == nnx.graphdef(model)
    assert insert_eca(fresh, plan=ECAPlan.load(tmp_path / "plan.json")) is fresh


def test_installed_is_what_was_planned():
    model = small()
    plan = plan_eca(model, example_inputs=X)
    assert installed_eca(model).entries == ()
    insert_eca(model, plan=plan)
    found = installed_eca(model)
    for name in ("path", "module_type", "channels", "layout", "kernel_size", "parameters", "action", "keeps_output"):
        assert [getattr(e, name) for e in found.entries] == [getattr(e, name) for e in plan.entries]
    assert found.model_parameters == plan.model_parameters
    assert everything(insert_eca(small(), plan=found)) == everything(model)


@pytest.mark.parametrize("where", ["residual", "se"])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_checkpoints_keys_tell_the_plan(where, as_text):
    model, x = build("inverted-residual")
    insert_eca(model, where, example_inputs=x, verify=False)
    state = nnx.to_pure_dict(nnx.state(model))
    if as_text:
        state["blocks"] = {str(number): block for number, block in state["blocks"].items()}
    fresh, _ = build("inverted-residual")
    plan = infer_plan(fresh, state)
    insert_eca(fresh, plan=plan, example_inputs=x, verify=False)
    assert nnx.graphdef(fresh) == nnx.graphdef(model)


def test_a_plan_of_another_network_lists_all_differences():
    plan = plan_eca(small(), example_inputs=X)
    other = small(width=4)
    before = everything(other)
    with pytest.raises(
        PlanMismatchError, match=r"2 differences: layers.0.0.bn2: has 4 channels.*layers.1.0.bn2: has 8"
    ):
        insert_eca(other, plan=plan)
    assert everything(other) == before
    with pytest.raises(PlanMismatchError, match=r"layers.0.0.bn2: is not there"):
        insert_eca(networks.PreActivation(rngs=nnx.Rngs(0)), plan=plan)


def test_a_checkpoint_of_another_network():
    state = nnx.to_pure_dict(nnx.state(insert_eca(small(), example_inputs=X, verify=False)))
    with pytest.raises(PlanMismatchError, match=r"layers.0.0.bn2: is not there"):
        infer_plan(networks.PreActivation(rngs=nnx.Rngs(0)), state)
    with pytest.raises(NoSiteError, match=r"state must have kernels of inserted ECAs"):
        infer_plan(small(), nnx.to_pure_dict(nnx.state(small())))


# --- undo ------------------------------------------------------------------------------------------------------------


def test_a_part_is_taken_out():
    model = insert_eca(small(), example_inputs=X, verify=False)
    remove_eca(model, include=r"layers\.0.*")
    assert installed_eca(model).paths == ("layers.1.0.bn2",)
    with pytest.raises(NoSiteError, match=r"include must match a site.*Near: layers.1.0.bn2"):
        remove_eca(model, include=r"layers\.0.*")
    remove_eca(model)
    with pytest.raises(NoSiteError, match=r"The network must have ECA\. Received: a ResNet without it"):
        remove_eca(model)


def test_an_eca_of_the_networks_author_stays():
    model = nnx.Sequential(Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)), ECA(8, rngs=nnx.Rngs(0)))
    insert_eca(model, "conv")
    assert installed_eca(model).paths == ("layers.0",)
    remove_eca(model)
    assert isinstance(model.layers[1], ECA)
