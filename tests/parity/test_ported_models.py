"""Whole networks against their ports: right ones are right in float32, and each planted fault is found where it is."""

import pytest

from eca_multi import parity
from tests.support.ported import (
    FRAMEWORKS,
    NETWORKS,
    Setting,
    flipped,
    network,
    port,
    reference,
    reordered,
    swapped,
    without,
)

pytestmark = pytest.mark.slow

# Network, fault, and the submodule of the reference that must be named.
FAULTS = {
    "resnet18-flipped": ("resnet18", flipped("layer3.1.conv2.weight"), "layer3.1.conv2"),
    "resnet18-statistics": (
        "resnet18",
        swapped("layer2.0.bn1.running_mean", "layer2.0.bn3.running_mean"),
        "layer2.0.bn1",
    ),
    "resnet18-eps": ("resnet18", Setting("layer4/0/bn2", "layer4_0_bn2", 1e-3), "layer4.0.bn2"),
    "vit-order": ("vit", reordered("blocks.5.attention.in_proj_weight", (1, 0, 2)), "blocks.5.attention"),
    "vit-bias": ("vit", without("blocks.9.fc1.bias"), "blocks.9.fc1"),
    "vit-eps": ("vit", Setting("blocks/3/norm1", "block3_norm1", 1e-3), "blocks.3.norm1"),
    "encoder-order": ("encoder", reordered("blocks.2.self_attn.in_proj_weight", (0, 2, 1)), "blocks.2.self_attn"),
    "encoder-bias": ("encoder", without("blocks.1.linear2.bias"), "blocks.1.linear2"),
    "encoder-eps": ("encoder", Setting("blocks/3/norm2", "block3_norm2", 1e-3), "blocks.3.norm2"),
    "unet-flipped": ("unet", flipped("up1_transposed.weight"), "up1_transposed"),
    "unet-scale": ("unet", swapped("down1.norm1.weight", "down1.norm2.weight"), "down1.norm1"),
    "unet-eps": ("unet", Setting("up0_norm1", "up0_norm1", 1e-3), "up0.norm1"),
    "tagger-gates": ("tagger", reordered("lstm.weight_ih_l0", (0, 2, 1, 3)), "lstm"),
    "tagger-bias": ("tagger", without("lstm.bias_hh_l0"), "lstm"),
    "tagger-head": ("tagger", without("head.bias"), "head"),
}


@pytest.mark.parametrize("target", FRAMEWORKS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_right_port_is_right(name, target):
    report = parity.assert_ported(
        reference(name), port(name, target), network(name).inputs(), map=network(name).MAPS[target]
    )
    assert report.cells
    assert all(cell.green for cell in report.cells), [cell for cell in report.cells if not cell.green]


@pytest.mark.parametrize("target", FRAMEWORKS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_at_its_submodule(fault, target):
    name, change, place = FAULTS[fault]
    with pytest.raises(parity.ParityError, match=rf"{place}\b"):
        parity.assert_ported(reference(name), port(name, target, change), network(name).inputs(), gradients=False)
