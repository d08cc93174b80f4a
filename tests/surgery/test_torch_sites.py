"""Where ECA goes in torch networks: the sites of each `where`, and what planning and inserting leave alone."""

import pytest
import torch
from torch import nn

from eca_multi.surgery.candidate import HAS_ECA
from eca_multi.surgery.errors import (
    UnsupportedModelError,
)
from eca_multi.torch import (
    ECA,
    base_state,
    eca_parameters,
    eca_state,
    infer_plan,
    insert_eca,
    installed_eca,
    load_base_state,
    plan_eca,
    remove_eca,
)
from tests.support.networks_torch import (
    MINIATURES,
    Basic,
    InvertedResidual,
    MBConv,
    Net,
    Shared,
    Untraceable,
    randomised,
    resnet,
    spatial,
)
from tests.support.surgery_torch import copied, image, same_state


@pytest.mark.parametrize("inputs", [None, "image"])
@pytest.mark.parametrize("name", MINIATURES)
def test_residual_branches_are_found_by_data_flow(name, inputs):
    make, paths = MINIATURES[name]
    assert list(plan_eca(randomised(make()), example_inputs=inputs and image()).paths) == paths


@pytest.mark.parametrize("name", MINIATURES)
def test_outputs_stay_bit_equal_gradients_arrive_and_removal_undoes(name):
    net, x = randomised(MINIATURES[name][0]()), image()
    before, state = net(x), copied(net)
    modules = list(net.modules())
    insert_eca(net, verify=True, example_inputs=x)
    assert torch.equal(net(x), before)
    net(x).square().sum().backward()
    assert all(kernel.grad.abs().sum() > 0 for kernel in eca_parameters(net))
    with torch.no_grad():
        for kernel in eca_parameters(net):
            nn.init.normal_(kernel)
        assert (net(x) - before).norm() > 1e-3 * before.norm()
    remove_eca(net)
    assert same_state(net, state)
    assert all(one is other for one, other in zip(net.modules(), modules, strict=True))


@pytest.mark.parametrize("dims", [1, 3])
def test_networks_of_other_dimensions(dims):
    net = randomised(spatial(dims))
    x = torch.randn(2, 2, *[6] * dims)
    before = net(x)
    assert plan_eca(net).paths == ("1.norm", "2.norm")
    assert torch.equal(insert_eca(net, example_inputs=x)(x), before)


def test_a_gate_in_a_block_with_the_channels_last():
    entry = plan_eca(randomised(MINIATURES["ConvNeXt"][0]())).entries[0]
    assert entry.layout == "channels_last"
    assert entry.notes == ("before the layer scale",)


@pytest.mark.parametrize(
    ("where", "make", "paths"),
    [
        (
            "block",
            lambda: Net(InvertedResidual(8, 16), InvertedResidual(16, 16)),
            ["blocks.0.conv.3", "blocks.1.conv.3"],
        ),
        ("conv", lambda: Net(Basic(8, 8), o=8), ["stem", "blocks.0.conv1", "blocks.0.conv2"]),
        ("norm", lambda: Net(Basic(8, 8), o=8), ["blocks.0.bn1", "blocks.0.bn2"]),
        ("conv_norm", lambda: Net(Basic(8, 8), o=8), ["stem", "blocks.0.bn1", "blocks.0.bn2"]),
        ("conv_norm", lambda: Net(Untraceable(8), o=8), ["stem", "blocks.0.bn"]),
        ("se", lambda: Net(MBConv(8), MBConv(8), o=8), ["blocks.0.se", "blocks.1.se"]),
        (["blocks.1.relu"], resnet, ["blocks.1.relu"]),
        (lambda path, module: isinstance(module, nn.ReLU) and "3" in path, resnet, ["blocks.3.relu"]),
    ],
    ids=["block", "conv", "norm", "conv_norm", "conv_norm, not traced", "se", "paths", "callable"],
)
def test_other_places(where, make, paths):
    assert list(plan_eca(randomised(make()), where, example_inputs=image()).paths) == paths


def test_a_convolution_before_a_norm_is_warned_of():
    notes = [entry.notes for entry in plan_eca(resnet(), "conv").entries]
    assert notes[0] == ()
    assert "before a norm" in notes[1][0]


def test_a_network_that_cannot_be_traced_is_run():
    net, x = randomised(Net(Untraceable(8), o=8)), image()
    with pytest.raises(UnsupportedModelError, match=r"torch.fx cannot trace blocks.0 .*Pass example_inputs"):
        plan_eca(net)
    entry = plan_eca(net, example_inputs=x).entries[0]
    assert (entry.path, entry.notes) == ("blocks.0.bn", ("found by a run",))


def test_an_se_block_is_replaced():
    net, x = randomised(Net(MBConv(8), o=8)), image()
    plan = plan_eca(net, "se")
    assert not plan.keeps_output
    assert plan.entries[0].notes == ("replaces an SE block: its 82 parameters are dropped",)
    insert_eca(net, plan=plan, example_inputs=x)
    assert type(net.blocks[0].se) is ECA
    assert net(x).shape == (2, 5)
    with pytest.raises(UnsupportedModelError, match=r"ECA in the place of blocks.0.se, whose weights"):
        remove_eca(net)


class Slotted(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)
        self.se = None
        self.attn = nn.Identity()

    def forward(self, x):
        out = self.attn(self.bn(self.conv(x)))
        out = self.se(out) if self.se is not None else out
        return x + out


def test_empty_slots_are_filled_under_their_names():
    net, x = randomised(Net(Slotted(8), o=8)), image()
    before, state = net(x), copied(net)
    insert_eca(net, "slot", example_inputs=x)
    assert torch.equal(net(x), before)
    assert {"blocks.0.se.conv.weight", "blocks.0.attn.conv.weight"} == set(eca_state(net))
    assert {entry.action for entry in installed_eca(net).entries} == {"fill"}
    again = insert_eca(Net(Slotted(8), o=8), plan=infer_plan(Net(Slotted(8), o=8), net.state_dict()))
    again.load_state_dict(net.state_dict())
    remove_eca(net)
    assert net.blocks[0].se is None
    assert type(net.blocks[0].attn) is nn.Identity
    assert same_state(net, state)


def test_the_plan_changes_nothing():
    net = randomised(resnet()).train()
    net.blocks[0].eval()
    state, flags, random = copied(net), [m.training for m in net.modules()], torch.get_rng_state()
    text = repr(net)
    plan_eca(net, example_inputs=image())
    assert same_state(net, state)
    assert [m.training for m in net.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert repr(net) == text
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_insertion_draws_no_random_number_and_keeps_the_flags():
    net = resnet().train()
    net.blocks[1].eval()
    random = torch.get_rng_state()
    insert_eca(net)
    assert torch.equal(torch.get_rng_state(), random)
    assert [net.blocks[i].bn2.training for i in (0, 1)] == [True, False]
    assert [net.blocks[i].bn2.eca.training for i in (0, 1)] == [True, False]


def test_a_second_call_does_not_nest():
    net = insert_eca(resnet())
    names = list(net.state_dict())
    insert_eca(net)
    assert list(net.state_dict()) == names
    assert {one.reason for one in plan_eca(net).skipped} == {HAS_ECA}
    insert_eca(net, "norm")
    assert len(installed_eca(net).entries) == 9


def test_a_shared_module_has_one_eca():
    net, x = randomised(Shared()), image()
    before = net(x)
    entry = plan_eca(net, "norm").entries[0]
    assert (entry.path, entry.aliases) == ("norm", ("again",))
    insert_eca(net, "norm", example_inputs=x)
    assert net.norm is net.again
    assert len(eca_parameters(net)) == 1
    assert torch.equal(net(x), before)
    inferred = infer_plan(Shared(), net.state_dict())
    assert (inferred.paths, inferred.entries[0].aliases) == (("norm",), ("again",))
    insert_eca(Shared(), plan=inferred).load_state_dict(net.state_dict())
    remove_eca(net)
    assert net.norm is net.again


def test_a_gate_around_a_block_with_gates():
    net, x = randomised(resnet()), image()
    before, state = net(x), copied(net)
    insert_eca(net, ["blocks.0", "blocks.0.bn1"], example_inputs=x)
    assert torch.equal(net(x), before)
    assert base_state(net).keys() == state.keys()
    plan = infer_plan(resnet(), net.state_dict())
    assert set(plan.paths) == {"blocks.0", "blocks.0.bn1"}
    load_base_state(net, state)
    remove_eca(net)
    assert same_state(net, state)


def test_a_gate_behind_an_instance_norm_without_bias_is_verified():
    """The means there are 0 up to rounding, so that a run in float32 and the oracle share no digit of them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU())
    assert installed_eca(insert_eca(net, "norm", example_inputs=torch.randn(2, 3, 12, 10))).paths == ("1",)
