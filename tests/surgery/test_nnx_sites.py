"""Which sites of nnx networks are planned, with and without a run."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from eca_multi.flax.nnx import (
    eca_parameters,
    insert_eca,
    plan_eca,
)
from eca_multi.surgery.errors import NoSiteError
from eca_multi.surgery.reasons import TOKENS
from tests.support import networks_nnx as networks
from tests.support.networks_nnx import Conv, Linear
from tests.support.surgery_nnx import NETS, X, build, everything, small


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
    assert reasons["tokens"] == TOKENS.format(path="tokens")
    (entry,) = plan_eca(model, ["tokens"], overrides={"tokens": {"channel_axis": -1}}, example_inputs=X).entries
    assert (entry.channels, entry.layout) == (8, "channels_last")
    assert "rank 2" in reasons["flat"]
    assert reasons["unused"] == "not called on these inputs"
    assert reasons[""] == "it is the model itself"


def test_planning_changes_nothing():
    model, x = build("inverted-residual", training=True)
    before = everything(model)
    for where in ("residual", "block", "conv_norm", "se"):
        plan_eca(model, where, example_inputs=x)
    assert everything(model) == before
