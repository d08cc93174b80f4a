"""The networks as tables, without any framework: sizes that were published, names, kernel sizes, errors."""

import re

import pytest

from eca_multi import eca_kernel_size
from eca_multi.networks import (
    NETWORKS,
    PARAMETERS,
    RELEASED,
    STATISTICS,
    count_parameters,
    find,
    kernel_sizes,
    macs,
    operations,
    preprocessing_of,
    published_operations,
    tensors,
)
from eca_multi.networks.builders import describe

networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))

# name: parameters, the paper's column in 2^20 and its digits, ECA parameters
PARAMETER_COUNTS = {
    "eca_resnet18": (11_689_556, "11.148", 44),
    "eca_resnet34": (21_797_744, "20.788", 72),
    "eca_resnet50": (25_557_112, "24.37", 80),
    "eca_resnet101": (44_549_317, "42.49", 157),
    "eca_resnet152": (60_193_042, "57.40", 234),  # the original README prints 57.41
    "eca_mobilenet_v2": (3_504_903, "3.34", 31),
}
# name: timm's own count, ECA parameters
TIMM_COUNTS = {
    "ecaresnet26t": (16_011_916, 44),
    "ecaresnet50t": (25_573_814, 86),
    "ecaresnet50d": (25_576_350, 86),
    "ecaresnet50d_pruned": (19_939_713, 86),
    "ecaresnet101d": (44_568_563, 171),
    "ecaresnet101d_pruned": (24_876_040, 171),
    "ecaresnet200d": (64_693_400, 336),
    "ecaresnet269d": (102_093_077, 461),
    "ecaresnetlight": (30_162_046, 86),
    "ecaresnext26t_32x4d": (15_406_220, 44),
    "ecaresnext50t_32x4d": (25_045_686, 86),  # timm up to 1.0.29 built it with the depths of 26t; no weights exist
}


@pytest.mark.parametrize("name", PARAMETER_COUNTS)
def test_the_papers_parameter_column(name):
    parameters, column, eca = PARAMETER_COUNTS[name]
    listed = tensors(find(name))
    assert count_parameters(listed) == parameters
    assert count_parameters(listed, "eca") == eca
    assert f"{parameters / 2**20:.{len(column.split('.')[1])}f}" == column


@pytest.mark.parametrize("name", TIMM_COUNTS)
def test_timms_parameter_counts(name):
    parameters, eca = TIMM_COUNTS[name]
    listed = tensors(find(name))
    assert count_parameters(listed) == parameters
    assert count_parameters(listed, "eca") == eca


@networks
def test_a_docstring_has_the_count(network):
    listed = tensors(network)
    count, eca = count_parameters(listed), count_parameters(listed, "eca")
    assert f"{count / 1e6:.2f} million parameters, {eca} of them in" in describe(network, "", "", "")


def test_every_network_has_a_published_count():
    assert set(NETWORKS) == {*PARAMETER_COUNTS, *TIMM_COUNTS}


@pytest.mark.parametrize(
    ("name", "millions"),
    {
        "eca_resnet18": 1814.1,
        "eca_resnet34": 3663.8,
        "eca_resnet50": 4089.2,
        "eca_resnet101": 7801.4,
        "eca_resnet152": 11513.6,
        "eca_mobilenet_v2": 300.8,
    }.items(),
)
def test_multiply_accumulates(name, millions):
    assert round(macs(find(name)) / 1e6, 1) == millions


def printed(network, unit, digits, **options):
    return f"{published_operations(network, **options) / unit:.{digits}f}"


@pytest.mark.parametrize(
    ("name", "plain", "eca"),
    [
        ("eca_resnet50", "3.86", "3.86"),
        ("eca_resnet101", "7.34", "7.35"),
        ("eca_resnet152", None, "10.83"),
        ("eca_mobilenet_v2", "319.4", "319.9"),
    ],
)
def test_the_papers_operations_column(name, plain, eca):
    unit, digits = (2**20, 1) if name == "eca_mobilenet_v2" else (2**30, 2)
    assert printed(find(name), unit, digits) == eca
    assert printed(find(name), unit, digits, eca=False) == plain or plain is None


def test_the_small_resnets_rows_come_from_a_rule_without_activations():
    """Both rows to the digit: 1.699 without ECA and 1.700 with it, 3.427 and 3.428."""
    small, larger = find("eca_resnet18"), find("eca_resnet34")
    assert printed(larger, 2**30, 3, eca=False, activations=False) == "3.427"
    assert printed(larger, 2**30, 3, activations=False) == "3.428"
    assert printed(small, 2**30, 3, eca=False, activations=False) == "1.699"
    assert printed(small, 2**30, 3, activations=False) == "1.700"
    for network, column in ((small, 1.699), (larger, 3.428)):
        assert published_operations(network) / 2**30 == pytest.approx(column, rel=2e-3)
        assert published_operations(network) / 2**30 != pytest.approx(column, rel=3e-4)


def test_ecas_own_operations():
    """Five and a half million means and products against 86 272 multiply-accumulates in the kernels."""
    count = operations(find("eca_resnet50"))
    assert count["eca"] == 86_272
    assert count["eca_mean"] == 5_519_360


def test_operations_of_signals():
    assert macs(find("eca_resnet18"), 224, dims=1) < macs(find("eca_resnet18"), 224) / 40


# --- names and shapes --------------------------------------------------------------------------------------------


@networks
def test_names_are_unique_and_kinds_known(network):
    listed = tensors(network)
    assert {tensor.kind for tensor in listed.values()} <= {*PARAMETERS, *STATISTICS}
    assert all(name.startswith(f"{tensor.module}.") for name, tensor in listed.items())
    blocks = [block.path for block in network.blocks]
    assert len(set(blocks)) == len(blocks) == sum(network.depths)
    assert [feature.stride for feature in network.features] == [2, 4, 8, 16, 32]


def test_names_of_the_original_resnet():
    listed = tensors(find("eca_resnet50"))
    assert listed["conv1.weight"][:2] == ("conv", (64, 3, 7, 7))
    assert listed["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert listed["layer2.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert listed["layer2.0.eca.weight"] == ("eca", (5,), "layer2.0.eca")
    assert listed["layer4.2.bn3.running_var"].kind == "norm_var"
    assert listed["fc.bias"][:2] == ("dense_bias", (1000,))
    assert "layer1.1.downsample.0.weight" not in listed
    # torch counts batches besides, one for each of 53 normalisations: 336 keys, as the original model has
    assert len(listed) + sum(tensor.kind == "norm_var" for tensor in listed.values()) == 336
    assert len(tensors(find("eca_resnet18"))) + 20 == 130


def test_names_of_the_original_mobilenet():
    listed = tensors(find("eca_mobilenet_v2"))
    assert listed["features.0.0.weight"][:2] == ("conv", (32, 3, 3, 3))
    assert listed["features.1.conv.0.0.weight"][:2] == ("depthwise", (32, 1, 3, 3))
    assert listed["features.1.conv.3.weight"][:2] == ("eca", (1,))
    assert listed["features.2.conv.2.weight"].shape == (24, 96, 1, 1)
    assert listed["features.10.conv.4.weight"].shape == (1,)
    assert listed["features.11.conv.4.weight"].shape == (3,)
    assert listed["features.18.0.weight"].shape == (1280, 320, 1, 1)
    assert listed["classifier.1.weight"].shape == (1000, 1280)


def test_names_of_timms_deep_stems():
    listed = tensors(find("ecaresnet26t"))
    assert [listed[f"conv1.{i}.weight"].shape for i in (0, 1, 3, 4, 6)] == [
        (24, 3, 3, 3),
        (24,),
        (32, 24, 3, 3),
        (32,),
        (64, 32, 3, 3),
    ]
    assert listed["layer1.0.downsample.1.weight"].shape == (256, 64, 1, 1)
    assert tensors(find("ecaresnetlight"))["conv1.weight"].shape == (64, 3, 7, 7)
    assert tensors(find("ecaresnext26t_32x4d"))["layer1.0.conv2.weight"][:2] == ("conv", (128, 4, 3, 3))
    assert tensors(find("ecaresnet50d_pruned"))["fc.weight"].shape == (1000, 2022)


def test_what_is_left_out_and_changed():
    network = find("eca_mobilenet_v2")
    whole = set(tensors(network))
    assert whole - set(tensors(network, num_classes=0)) == {"classifier.1.weight", "classifier.1.bias"}
    assert "features.18.0.weight" not in tensors(network, features_only=True)
    listed = tensors(find("ecaresnet50d"), num_classes=10, in_channels=1, dims=1)
    assert listed["conv1.0.weight"].shape == (32, 1, 3)
    assert listed["layer1.0.conv2.weight"].shape == (64, 64, 3)
    assert listed["fc.weight"].shape == (10, 2048)


# --- kernel sizes ------------------------------------------------------------------------------------------------


def by_stage(network, sizes):
    return [sizes[sum(network.depths[:stage])] for stage in range(len(network.depths))]


@pytest.mark.parametrize(
    ("name", "published", "adaptive"),
    [
        ("eca_resnet18", [3, 5, 7, 7], [3, 5, 5, 5]),
        ("eca_resnet34", [3, 3, 5, 7], [3, 5, 5, 5]),
        ("eca_resnet50", [3, 5, 5, 7], [5, 5, 5, 7]),
        ("eca_resnet101", [3, 3, 5, 7], [5, 5, 5, 7]),
        ("eca_mobilenet_v2", [1, 1, 1, 1, 3, 3, 3], [3, 3, 3, 3, 3, 5, 5]),
        ("ecaresnet50d", [5, 5, 5, 7], [5, 5, 5, 7]),
        ("ecaresnet50d_pruned", [5, 5, 5, 7], [3, 5, 5, 5]),
    ],
)
def test_published_and_adaptive_sizes(name, published, adaptive):
    network = find(name)
    assert by_stage(network, kernel_sizes(network, "published")) == published
    assert by_stage(network, kernel_sizes(network, "adaptive")) == adaptive
    assert kernel_sizes(network) == kernel_sizes(network, "published")


@networks
def test_a_list_is_taken_per_stage_or_per_eca(network):
    stages, number = len(network.depths), sum(network.depths)
    wanted = [2 * i + 1 for i in range(number)]
    assert kernel_sizes(network, wanted) == tuple(wanted)
    assert set(kernel_sizes(network, [9] * stages)) == {9}
    with pytest.raises(ValueError, match=rf"must have {stages} entries \(one per stage\) or {number} .* Received: 2\."):
        kernel_sizes(network, [3, 3])


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        (
            "3557",
            ValueError,
            "must be 'published', 'adaptive' or a list of odd integers. Received: kernel_sizes='3557'",
        ),
        (3, TypeError, "Received: kernel_sizes=3"),
        ([3, 4, 5, 7], ValueError, "kernel_sizes[1] must be an odd positive integer. Received: kernel_sizes[1]=4"),
        ([3, 3.0, 5, 7], TypeError, "kernel_sizes[1] must be an odd positive integer"),
        ([], ValueError, "Received: 0."),
    ],
)
def test_sizes_that_are_none(wanted, error, message):
    with pytest.raises(error, match=re.escape(message)):
        kernel_sizes(find("eca_resnet50"), wanted)


def test_the_rule_reproduces_timms():
    network = find("ecaresnet269d")
    sizes = [eca_kernel_size(block.outputs, min_size=3) for block in network.blocks]
    assert sizes == list(kernel_sizes(network, "published"))


# --- by name -----------------------------------------------------------------------------------------------------


def test_the_nearest_names_are_suggested():
    with pytest.raises(ValueError, match=r"Received: 'ecaresnet_50d'\. Did you mean ecaresnet50d or"):
        find("ecaresnet_50d")
    with pytest.raises(ValueError, match="Did you mean eca_mobilenet_v2 or"):
        find("zzz")
    with pytest.raises(TypeError, match=r"arch must be the name of a network\. Received: 50"):
        find(50)


def test_preprocessing():
    assert preprocessing_of("eca_resnet50").size == 224
    assert preprocessing_of("ecaresnet50t").size == preprocessing_of("ecaresnet50t.ra2_in1k").size == 320
    assert preprocessing_of("ecaresnet50t.a3_in1k").crop == 0.95
    assert {tag.split(".")[0] for tag in RELEASED} <= set(NETWORKS)
