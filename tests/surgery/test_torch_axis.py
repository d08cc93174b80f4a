"""The channel axis of a site in torch networks: told by evidence, refused where there is none, proven by a run."""

import pytest
import torch
from torch import nn

from eca_multi.surgery.errors import NoSiteError, VerifyError
from eca_multi.torch import eca_state, insert_eca, plan_eca
from tests.support.networks_torch import Net, conv, randomised, resnet
from tests.support.surgery_torch import copied, image, same_state

C = 16


class DepthwiseOverTokens(nn.Module):
    """Of SegFormer's feed-forward part: tokens turned into a map, a convolution over the map, tokens again."""

    def __init__(self, c):
        super().__init__()
        self.inner, self.outer, self.depthwise = nn.Linear(c, c), nn.Linear(c, c), conv(c, c, groups=c)

    def forward(self, x, height, width):
        n, _, c = x.shape
        x = self.inner(x).transpose(1, 2).reshape(n, c, height, width)
        return self.outer(self.depthwise(x).flatten(2).transpose(1, 2))


class KeepingDrop(nn.Module):
    """A drop path by a name that nobody knows; it says no channels."""

    def forward(self, x):
        return x * 1.0


class TokenBlock(nn.Module):
    def __init__(self, c, drop=None):
        super().__init__()
        self.norm, self.mlp, self.drop = nn.LayerNorm(c), DepthwiseOverTokens(c), drop or nn.Identity()

    def forward(self, x):
        n, c, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = x + self.drop(self.mlp(self.norm(x), height, width))
        return x.transpose(1, 2).reshape(n, c, height, width)


def segformer(drop=None):
    return Net(Basic8(), TokenBlock(C, drop), o=C)


class Basic8(nn.Module):
    """A residual block, the site that is to stay, and a way from 8 to 16 channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.wide = conv(8, 8), nn.BatchNorm2d(8), conv(8, C)

    def forward(self, x):
        return self.wide(torch.relu(x + self.bn(self.conv(x))))


@pytest.mark.parametrize("size", [4, 8, 12], ids=["as many tokens as channels", "more tokens", "yet more"])
@pytest.mark.parametrize("drop", [None, KeepingDrop], ids=["Identity", "no channels said"])
def test_tokens_are_never_gated_whatever_the_size_of_the_image(size, drop):
    plan = plan_eca(randomised(segformer(drop and drop())), example_inputs=image(size=size))
    assert plan.paths == ("blocks.0.bn",)
    reasons = {one.path: one.reason for one in plan.skipped}
    assert "a sequence of tokens" in reasons["blocks.1.drop" if drop else "blocks.1.mlp"]


def test_without_inputs_tokens_are_not_taken_either():
    plan = plan_eca(randomised(segformer()))
    assert plan.paths == ("blocks.0.bn",)


def test_tokens_are_gated_over_their_channels_where_the_user_says_so():
    x, net = image(size=4), randomised(segformer())
    overrides = {r"blocks\.1\.mlp": {"channel_axis": -1}}
    plan = plan_eca(net, overrides=overrides, example_inputs=x)
    entry = plan.entries[-1]
    assert (entry.path, entry.channels, entry.channel_axis) == ("blocks.1.mlp", C, -1)
    before = net(x)
    assert torch.equal(insert_eca(net, plan=plan, example_inputs=x)(x), before)
    assert net(image(size=12)).shape == (2, 5)


class Unsaid(nn.Module):
    """A layer of an author's own; its output has as many positions as channels for an image of the same size."""

    def forward(self, x):
        return torch.sin(x)


class UnsaidBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv, self.own = conv(c, c), Unsaid()

    def forward(self, x):
        return x + self.own(self.conv(x).cos())


class FixedSize(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.net, self.size = Net(Basic8(), UnsaidBlock(C), o=C), size

    def forward(self, x):
        if x.shape[-1] != self.size:
            raise ValueError("another size")
        return self.net(x)


@pytest.mark.parametrize("size", [6, 8, 16])
def test_a_second_size_tells_the_axis_of_a_module_that_says_nothing(size):
    entry = plan_eca(randomised(Net(UnsaidBlock(8), o=8)), example_inputs=image(size=size)).entries[0]
    assert (entry.path, entry.channels, entry.channel_axis) == ("blocks.0.own", 8, 1)


def test_where_nothing_tells_the_axis_the_site_is_refused_with_the_remedy():
    plan = plan_eca(randomised(FixedSize(6)), example_inputs=image(size=6))
    assert plan.paths == ("net.blocks.0.bn",)
    assert "overrides={'net.blocks.1.own': {'channel_axis': 1}}" in plan.skipped[0].reason
    overrides = {"net.blocks.1.own": {"channel_axis": 1}}
    assert plan_eca(FixedSize(6), example_inputs=image(size=6), overrides=overrides).entries[-1].channels == C
    with pytest.raises(NoSiteError, match="nothing says which axis holds its channels"):
        plan_eca(FixedSize(6), ["net.blocks.1.own"], example_inputs=image(size=6))


class TokensLast(nn.Module):
    """A network of (N, L, C) inputs with a convolution turned around."""

    def __init__(self, c):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(c, c, 3, padding=1), nn.LayerNorm(c)

    def forward(self, x):
        return x + self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2))


def test_an_input_with_its_channels_last_is_no_exception():
    with pytest.raises(NoSiteError, match=r"1.norm .*: its output is .N, tokens, C."):
        plan_eca(nn.Sequential(nn.Linear(4, 9), TokensLast(9)), example_inputs=torch.randn(2, 9, 4))


def test_the_run_proves_each_gate_with_a_kernel_off_the_identity():
    net, x = randomised(resnet()), image()
    insert_eca(net, example_inputs=x)
    assert all(float(kernel.abs().sum()) == 0 for kernel in eca_state(net).values())


@pytest.mark.parametrize("fault", ["axis", "gate", "flip"])
def test_a_gate_that_is_not_eca_is_found(fault, monkeypatch):
    from eca_multi.torch.layers import ECA

    plain = ECA.forward
    faults = {
        "axis": lambda self, x, *rest: plain(self, x.transpose(1, 2), *rest).transpose(1, 2),
        "gate": lambda self, x, *rest: x + 0 * plain(self, x, *rest),
        "flip": lambda self, x, *rest: plain(self, x.flip(1), *rest).flip(1),
    }
    net, x = randomised(Net(UnsaidBlock(8), o=8)), image(size=8)
    state = copied(net)
    monkeypatch.setattr(ECA, "forward", faults[fault])
    with pytest.raises(VerifyError, match=r"blocks.0.own: with a kernel off the identity, it is not ECA over axis 1"):
        insert_eca(net, example_inputs=x)
    assert same_state(net, state)
