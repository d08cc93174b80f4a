"""Checkpoints without any framework: names, the network and its kernels read off shapes, safetensors files."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy

from eca_multi.checkpoints import CheckpointError
from eca_multi.checkpoints.compare import Report
from eca_multi.checkpoints.identify import identify
from eca_multi.checkpoints.names import canonical_names
from eca_multi.checkpoints.safetensors import read_safetensors, write_safetensors
from eca_multi.checkpoints.stored import DTYPES
from eca_multi.checkpoints.take import take
from eca_multi.networks import NETWORKS, find, kernel_sizes, tensors

networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))


def shapes_of(network, kernels=None, eca="eca", prefix="", **options):
    """Names and shapes as in a torch state dict of the original (`eca`) or of timm (`se`)."""
    result = {}
    for name, tensor in tensors(network, kernels, **options).items():
        shape = tensor.shape
        if tensor.kind == "eca":
            shape = (1, 1, *shape)
            name = f"{tensor.module}.conv.weight"
            name = re.sub(r"\.eca\.", f".{eca}.", name)
        result[prefix + name] = shape
        if tensor.kind == "norm_var":
            result[f"{prefix}{tensor.module}.num_batches_tracked"] = ()
    return result


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("layer1.0.eca.conv.weight", "layer1.0.eca.weight"),
        ("layer1.0.se.conv.weight", "layer1.0.eca.weight"),
        ("stages.0.1.attn.conv.weight", "stages.0.1.eca.weight"),
        ("stages.0.1.attn_last.conv.weight", "stages.0.1.eca.weight"),
        ("features.1.conv.3.conv.weight", "features.1.conv.3.weight"),
        ("features.2.conv.0.0.weight", "features.2.conv.0.0.weight"),
        ("layer1.0.eca.weight", "layer1.0.eca.weight"),
        ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("use.conv.weight", "use.conv.weight"),
    ],
)
def test_names(name, canonical):
    assert canonical_names([name, "x"]) == {canonical: name, "x": "x"}


def test_prefixes_are_dropped_where_all_names_have_them():
    assert canonical_names(["module.a", "module.b"]) == {"a": "module.a", "b": "module.b"}
    assert canonical_names(["module._orig_mod.a"]) == {"a": "module._orig_mod.a"}
    assert canonical_names(["module.a", "b"]) == {"module.a": "module.a", "b": "b"}
    assert canonical_names(["a.num_batches_tracked"]) == {}


def test_two_names_for_one_tensor():
    with pytest.raises(ValueError, match=r"Received: 'a\.eca\.conv\.weight' and 'a\.se\.conv\.weight'"):
        canonical_names(["a.eca.conv.weight", "a.se.conv.weight"])


# --- which network -------------------------------------------------------------------------------------------------


@networks
@pytest.mark.parametrize(("eca", "prefix"), [("eca", "module."), ("se", "")])
def test_every_network_is_found(network, eca, prefix):
    found = identify(shapes_of(network, eca=eca, prefix=prefix))
    assert found.network is network
    assert found.kernel_sizes == kernel_sizes(network)
    assert (found.num_classes, found.in_channels, found.dims, found.features_only) == (1000, 3, 2, False)
    assert found.report.fits
    assert len(found.report.matched) == len(tensors(network)) == len(found.names)


@networks
def test_canonical_names_are_found_too(network):
    found = identify({name: tensor.shape for name, tensor in tensors(network).items()})
    assert found.network is network
    assert found.kernel_sizes == kernel_sizes(network)


@networks
def test_options_are_read_off(network):
    kernels = [2 * i + 1 for i in range(sum(network.depths))]
    found = identify(shapes_of(network, kernels, num_classes=7, in_channels=1, dims=1))
    assert found.network is network
    assert found.options == {
        "num_classes": 7,
        "in_channels": 1,
        "kernel_sizes": kernels,
        "features_only": False,
        "dims": 1,
    }


def test_without_classifier_and_without_head():
    network = find("eca_mobilenet_v2")
    assert identify(shapes_of(network, num_classes=0)).options["num_classes"] == 0
    assert not identify(shapes_of(network, num_classes=0)).features_only
    assert identify(shapes_of(network, features_only=True)).features_only


def test_the_original_default_kernels_are_kept():
    """The code's own default is 3 everywhere; nothing is computed from the widths."""
    found = identify(shapes_of(find("eca_resnet50"), [3, 3, 3, 3]))
    assert set(found.kernel_sizes) == {3}


def test_the_mobilenets_of_before_and_after_a_fix_of_the_original():
    """Its condition was `c <= 96` first: checkpoints of both kinds are about."""
    old = [1, 1, 1, 1, 1, 3, 3]
    found = identify(shapes_of(find("eca_mobilenet_v2"), old))
    assert found.kernel_sizes == kernel_sizes(find("eca_mobilenet_v2"), old)
    assert found.kernel_sizes != kernel_sizes(find("eca_mobilenet_v2"))


def test_a_given_name_is_held_to():
    shapes = shapes_of(find("ecaresnet50t"), eca="se")
    assert identify(shapes, "ecaresnet50t").network.name == "ecaresnet50t"
    with pytest.raises(
        CheckpointError, match=r"must hold the tensors of ecaresnet50d\.[^$]*It is of ecaresnet50t\."
    ) as info:
        identify(shapes, "ecaresnet50d")
    wrong = {name for name, *_ in info.value.report.misshaped}
    assert "conv1.0.weight" in wrong
    assert not info.value.report.missing
    with pytest.raises(ValueError, match="Did you mean ecaresnet50"):
        identify(shapes, "ecaresnet50x")


def test_everything_that_differs_is_listed():
    shapes = shapes_of(find("eca_resnet18"))
    del shapes["layer1.0.bn1.weight"]
    shapes["extra.weight"] = (3,)
    shapes["layer1.0.eca.conv.weight"] = (1, 1, 4)
    shapes["layer1.1.eca.conv.weight"] = (64, 1, 3)
    with pytest.raises(CheckpointError, match="The nearest networks are eca_resnet18 or") as info:
        identify(shapes)
    report = info.value.report
    assert report.missing == ("layer1.0.bn1.weight",)
    assert report.unexpected == ("extra.weight",)
    assert report.misshaped == (
        ("layer1.0.eca.weight", (1, 1, 4), (3,)),
        ("layer1.1.eca.weight", (64, 1, 3), (3,)),
    )
    assert len(report.matched) == len(tensors(find("eca_resnet18"))) - 3
    for text in (
        "1 missing: layer1.0.bn1.weight",
        "1 unexpected: extra.weight",
        "layer1.0.eca.weight (1, 1, 4), expected",
    ):
        assert text in str(info.value)


@pytest.mark.parametrize("shapes", [{}, {"a": ()}, {"conv1.weight": ()}, {"conv1.weight": (0, 0, 0, 0)}])
def test_what_is_no_network(shapes):
    with pytest.raises(CheckpointError, match="must hold the tensors of a network of this package"):
        identify(shapes)


def test_networks_of_other_kinds_are_named_as_such():
    """timm's eca_resnet33ts and the like are no networks of this package: said, not guessed."""
    with pytest.raises(CheckpointError, match="unexpected: stages"):
        identify({"stages.0.0.attn.conv.weight": (1, 1, 3)})


def test_a_reports_text_is_cut_in_messages_only():
    report = Report(missing=tuple(f"tensor{i}" for i in range(20)))
    assert "and 17 more" in report.text()
    assert "tensor19" in str(report)
    assert not report.fits


# --- arrays --------------------------------------------------------------------------------------------------------


def arrays_of(network, rng, **options):
    return {
        name: rng.normal(size=shape).astype(np.float32) if shape else np.array(3)
        for name, shape in shapes_of(network, **options).items()
    }


def test_arrays_come_out_canonical(rng):
    arrays = arrays_of(find("eca_resnet18"), rng, prefix="module.", num_classes=3)
    checkpoint = take(arrays, facts={"epoch": "7"})
    assert {n: a.shape for n, a in checkpoint.weights.items()} == {
        n: t.shape for n, t in checkpoint.found.tensors.items()
    }
    kernel = arrays["module.layer2.0.eca.conv.weight"]
    assert np.array_equal(checkpoint.weights["layer2.0.eca.weight"], kernel[0, 0])
    assert np.shares_memory(checkpoint.weights["fc.weight"], arrays["module.fc.weight"])
    assert checkpoint.facts == {"epoch": "7"}


def test_arrays_that_are_no_weights(rng):
    arrays = arrays_of(find("eca_resnet18"), rng, num_classes=3)
    with pytest.raises(ValueError, match=r"'fc\.bias' is not finite"):
        take({**arrays, "fc.bias": np.full(3, np.nan)})
    with pytest.raises(TypeError, match=r"must be floating-point arrays. Received: 'fc\.bias' of dtype int64"):
        take({**arrays, "fc.bias": np.ones(3, int)})


# --- safetensors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mmap", [False, True])
def test_safetensors_are_read(tmp_path, rng, mmap):
    path = tmp_path / "model.safetensors"
    arrays = {"a": rng.normal(size=(3, 4)), "b": np.array(5), "c": rng.normal(size=2).astype(np.float16)}
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    found, metadata = read_safetensors(path, mmap=mmap)
    assert metadata == {"format": "pt"}
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
        assert found[name].flags.writeable is not mmap


def raw(path, header, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "bfloat16"])
def test_every_dtype_goes_to_the_library_and_back(tmp_path, rng, dtype):
    """Arrays without an axis, without a number, and that do not lie in their order are among them."""
    plain = (100 * rng.normal(size=(3, 4))).astype(dtype)
    arrays = {"turned": plain.T, "one": plain[0, 0], "none": plain[:0], "byte": np.array([True]), "plain": plain}
    write_safetensors({name: np.asarray(array) for name, array in arrays.items()}, tmp_path / "ours.safetensors")
    theirs = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    safetensors.numpy.save_file(theirs, tmp_path / "theirs.safetensors")
    for held in (theirs, read_safetensors(tmp_path / "theirs.safetensors")[0]):
        assert set(held) == set(arrays)
        for name, array in arrays.items():
            assert (held[name].dtype, held[name].shape) == (array.dtype, array.shape)
            assert np.array_equal(held[name], array)


def test_what_the_format_lacks_is_not_written(tmp_path):
    with pytest.raises(KeyError, match="complex64"):
        write_safetensors({"a": np.ones(2, np.complex64)}, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_widened(tmp_path):
    values = np.array([1.5, -2.0, 3.0e38], np.float32)
    data = (values.view("<u4") >> 16).astype("<u2").tobytes()
    path = raw(tmp_path / "b.safetensors", {"a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}, data)
    found, _ = read_safetensors(path)
    assert found["a"].dtype == np.float32
    np.testing.assert_allclose(found["a"], values, rtol=1e-2)


def test_other_dtypes_are_refused(tmp_path):
    header = {"a": {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [0, 3]}}
    with pytest.raises(CheckpointError, match="Received: 'a' of dtype F8_E4M3"):
        read_safetensors(raw(tmp_path / "f8.safetensors", header, b"123"))


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:40], lambda b: b[:3], lambda b: b"", lambda b: b + b"x"]
)
def test_broken_safetensors(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": np.ones(3)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"path must name a complete \.safetensors file"):
        read_safetensors(path)


def test_an_empty_file_of_tensors(tmp_path):
    assert read_safetensors(raw(tmp_path / "none.safetensors", {})) == ({}, {})


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file"):
        read_safetensors(tmp_path / "none.safetensors")


def test_timms_files_are_taken(tmp_path, rng):
    """With the counters of batches as int64, as timm writes them."""
    network = find("ecaresnet26t")
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays_of(network, rng, eca="se", num_classes=2), path)
    checkpoint = take(read_safetensors(path)[0])
    assert checkpoint.found.network is network
    assert checkpoint.found.num_classes == 2
