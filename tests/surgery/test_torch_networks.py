"""Surgery on torchvision's and timm's networks. The default run has a miniature of each pattern instead."""

import re

import pytest
import torch
from torch import nn

from eca_multi.surgery.errors import NoSiteError
from eca_multi.torch import eca_parameters, eca_state, infer_plan, insert_eca, load_eca_state, plan_eca, remove_eca
from tests.support.networks_installed import built, libraries

pytestmark = pytest.mark.slow
RESNET50 = "layer1.{0-2}.bn3 layer2.{0-3}.bn3 layer3.{0-5}.bn3 layer4.{0-2}.bn3"
MOBILENET = "blocks.1.1.bn3 blocks.2.{1-2}.bn3 blocks.3.{1-3}.bn3 blocks.4.{1-2}.bn3 blocks.5.{1-2}.bn3"
SITES = {
    "torchvision/resnet18": "layer{1-4}.{0-1}.bn2",
    "torchvision/resnet50": RESNET50,
    "torchvision/mobilenet_v2": (
        "features.3.conv.3 features.{5-6}.conv.3 features.{8-10}.conv.3 features.{12-13}.conv.3 features.{15-16}.conv.3"
    ),
    "torchvision/mobilenet_v3_small": (
        "features.3.block.2.1 features.{5-6}.block.3.1 features.8.block.3.1 features.{10-11}.block.3.1"
    ),
    "torchvision/efficientnet_b0": (
        "features.{2-3}.1.block.3.1 features.{4-5}.{1-2}.block.3.1 features.6.{1-3}.block.3.1"
    ),
    "torchvision/convnext_tiny": (
        "features.1.{0-2}.block.5 features.3.{0-2}.block.5 features.5.{0-8}.block.5 features.7.{0-2}.block.5"
    ),
    "torchvision/regnet_y_400mf": (
        "trunk_output.block1.block1-0.f.c.1 trunk_output.block2.block2-{0-2}.f.c.1 "
        "trunk_output.block3.block3-{0-5}.f.c.1 trunk_output.block4.block4-{0-5}.f.c.1"
    ),
    "timm/resnet18": "layer{1-4}.{0-1}.bn2",
    "timm/resnet50d": RESNET50,
    "timm/seresnet50": RESNET50.replace("bn3", "se"),
    "timm/res2net50_14w_8s": RESNET50,
    "timm/resnetv2_50": (
        "stages.0.blocks.{0-2}.conv3 stages.1.blocks.{0-3}.conv3 "
        "stages.2.blocks.{0-5}.conv3 stages.3.blocks.{0-2}.conv3"
    ),
    "timm/mobilenetv2_100": MOBILENET,
    "timm/efficientnet_b0": "blocks.{1-2}.1.bn3 blocks.{3-4}.{1-2}.bn3 blocks.5.{1-3}.bn3",
    "timm/convnext_atto": "stages.{0-1}.blocks.{0-1}.mlp stages.2.blocks.{0-5}.mlp stages.3.blocks.{0-1}.mlp",
    "timm/regnety_004": "s1.b1.conv3 s2.b{1-3}.conv3 s3.b{1-6}.conv3 s4.b{1-6}.conv3",
    "timm/hrnet_w18_small": (
        "layer1.0.bn3 stage2.0.branches.{0-1}.{0-1}.bn2 stage3.0.branches.{0-2}.{0-1}.bn2 "
        "stage4.0.branches.{0-3}.{0-1}.bn2 incre_modules.{0-3}.0.bn3"
    ),
}


def expanded(text):
    """All paths of "a.{0-1}.b c"."""
    parts = text.split()
    while any("{" in part for part in parts):
        parts = [one for part in parts for one in _first_range(part)]
    return parts


def _first_range(text):
    found = re.search(r"\{(\d+)-(\d+)\}", text)
    if not found:
        return [text]
    first, last = map(int, found.groups())
    return [text[: found.start()] + str(number) + text[found.end() :] for number in range(first, last + 1)]


@pytest.mark.parametrize("name", SITES)
def test_sites_outputs_gradients_checkpoints_and_undo(name):
    net, x = built(name), torch.randn(2, 3, 64, 64)
    modules, old = list(net.modules()), {key: value.clone() for key, value in net.state_dict().items()}
    plan = plan_eca(net)
    assert list(plan.paths) == expanded(SITES[name])
    with torch.no_grad():
        before = net(x)
    insert_eca(net, plan=plan, example_inputs=x)  # outputs and numbers of calls are compared inside
    out = net(x)
    assert torch.equal(out, before)
    out.square().mean().backward()
    kernels = eca_parameters(net)
    assert len(kernels) == len(plan.entries)
    assert all(kernel.grad.abs().sum() > 0 for kernel in kernels)
    with torch.no_grad():
        for kernel in kernels:
            nn.init.normal_(kernel)
        assert (net(x) - before).norm() > 1e-3 * before.norm()
    assert net.load_state_dict(old, strict=False).unexpected_keys == []
    assert infer_plan(built(name), net.state_dict(), example_inputs=x) == plan
    remove_eca(net)
    state = net.state_dict()
    assert list(state) == list(old)
    assert all(torch.equal(state[key], old[key]) for key in old)
    assert all(one is other for one, other in zip(net.modules(), modules, strict=True))


@pytest.mark.parametrize("name", ["torchvision/densenet121", "torchvision/vgg11_bn", "torchvision/shufflenet_v2_x1_0"])
def test_networks_without_residual_adds_say_what_they_offer(name):
    net = built(name)
    with pytest.raises(NoSiteError, match=r"Received: no candidate. Try where='conv_norm' \(\d+ sites\)"):
        plan_eca(net)


def test_branches_of_equal_weight_are_ambiguous():
    net = built("timm/repvgg_a0")
    with pytest.raises(NoSiteError, match="ambiguous add: 1 convolutions on either side"):
        plan_eca(net)


def test_block_takes_those_without_a_shortcut_too():
    """The official ECA-MobileNetV2 gates all 17 blocks, of which 10 have an add."""
    assert len(plan_eca(built("torchvision/mobilenet_v2"), "block").entries) == 17


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("torchvision/mobilenet_v3_small", 9),
        ("torchvision/efficientnet_b0", 16),
        ("timm/efficientnet_b0", 16),
        ("timm/seresnet50", 16),
    ],
)
def test_squeeze_blocks_are_replaced(name, count):
    net = built(name)
    full = sum(p.numel() for p in net.parameters())
    plan = plan_eca(net, "se")
    assert len(plan.entries) == count
    assert not plan.keeps_output
    dropped = sum(int(re.search(r"its (\d+) parameters", entry.notes[0])[1]) for entry in plan.entries)
    insert_eca(net, plan=plan, example_inputs=torch.randn(1, 3, 64, 64))
    assert sum(p.numel() for p in net.parameters()) == full - dropped + plan.parameters


def test_filled_slots_give_timms_own_network():
    """timm's resnet50d with its empty slots filled has the weights' names of ecaresnet50d, and its outputs."""
    theirs, x = built("timm/ecaresnet50d").double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    ours = insert_eca(built("timm/resnet50d").double(), "slot", gate="sigmoid", init="uniform")
    state = theirs.state_dict()
    assert set(ours.state_dict()) == set(state)
    ours.load_state_dict(state)
    with torch.no_grad():
        expected = theirs(x)
        assert (ours(x) - expected).norm() < 1e-12 * expected.norm()
    plan = infer_plan(built("timm/resnet50d"), state, gate="sigmoid")
    assert {entry.action for entry in plan.entries} == {"fill"}
    again = insert_eca(built("timm/resnet50d"), plan=plan)
    load_eca_state(again, eca_state(ours))
    assert all(torch.equal(value, eca_state(ours)[key]) for key, value in eca_state(again).items())


def test_a_missing_library_skips_with_the_reason(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(pytest.skip.Exception, match="pip install --no-deps timm torchvision"):
        libraries()
