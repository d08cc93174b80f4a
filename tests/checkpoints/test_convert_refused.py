"""convert refuses what it cannot read or write, and says why."""

import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from eca_multi.checkpoints import CheckpointError, convert, load_file
from eca_multi.checkpoints.detect import detect
from eca_multi.networks import kernel_sizes
from tests.support.checkpoint_factory import (
    FORMATS,
    canonical,
    network_of,
    ours_torch,
    torch_model,
)
from tests.support.converting import assert_same, marks, refused


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", ["original", "timm", "timm-safetensors", pytest.param("keras", marks=marks("keras"))])
def test_truncated(tmp_path, files, name, share):
    path = tmp_path / FORMATS[name].file
    data = files(name).read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(tmp_path, path, r"path must name a (complete|checkpoint)")


@pytest.mark.parametrize("name", ["timm", pytest.param("keras", marks=marks("keras"))])
def test_corrupt(tmp_path, files, name):
    """One bit in the middle, among the weights: archives have checksums."""
    path = tmp_path / FORMATS[name].file
    data = bytearray(files(name).read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(tmp_path, path, "path must name a complete.*CRC")


def test_archives_without_checksums_are_read(tmp_path, weights):
    """torch can be told to leave them out."""
    config = torch.utils.serialization.config.save
    config.compute_crc32 = False
    try:
        ours_torch(weights, tmp_path / "model.pth")
    finally:
        config.compute_crc32 = True
    convert(tmp_path / "model.pth", tmp_path / "a.safetensors", to="canonical")
    assert_same(load_file(tmp_path / "a.safetensors"), weights)


@pytest.mark.slow
def test_an_archive_that_was_packed_again(tmp_path, files):
    with zipfile.ZipFile(files("timm")) as old, zipfile.ZipFile(tmp_path / "m.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    refused(tmp_path, tmp_path / "m.pth", "is compressed, which neither torch nor Keras does")


class Runs:
    """Would make a folder when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_code_is_refused_named_and_not_run(tmp_path, weights, form):
    path, folder = tmp_path / "model.pth", tmp_path / "made"
    if form == "bare":
        path.write_bytes(pickle.dumps({"state_dict": Runs(folder)}))
    else:
        state = {"state_dict": torch_model(weights).state_dict(), "extra": Runs(folder)}
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    refused(tmp_path, path, r"which would call \w+\.mkdir\. Nothing of it was run")
    assert not folder.exists()


def test_a_wrong_architecture(tmp_path, files):
    match = r"must hold the tensors of eca_resnet34\.[^$]*It is of eca_resnet18\."
    refused(tmp_path, files("timm"), match, arch="eca_resnet34")
    refused(tmp_path, files("timm"), "Did you mean eca_resnet18", ValueError, arch="eca_resnet_18")


def test_a_network_of_another_kind(tmp_path):
    torch.save({"conv1.weight": torch.ones(64, 3, 7, 7), "bn1.weight": torch.ones(64)}, tmp_path / "model.pth")
    refused(tmp_path, tmp_path / "model.pth", r"[^$]*The nearest networks are eca_resnet[^$]*missing")


def test_tensors_that_do_not_fit_are_all_listed(tmp_path, weights):
    state = dict(torch_model(weights).state_dict())
    del state["layer1.0.bn1.bias"]
    state["extra"] = torch.ones(3)
    state["fc.bias"] = torch.ones(7)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="1 missing") as info:
        convert(tmp_path / "model.pth", tmp_path / "a.safetensors", to="canonical")
    report = info.value.report
    assert (report.missing, report.unexpected) == (("layer1.0.bn1.bias",), ("extra",))
    assert report.misshaped == (("fc.bias", (7,), (5,)),)


def test_a_list_of_kernel_sizes_of_the_wrong_length(weights):
    from eca_multi.torch import eca_resnet18

    with pytest.raises(ValueError, match=r"kernel_sizes must have 4 entries \(one per stage\) or 8 .*Received: 3"):
        eca_resnet18(kernel_sizes=[3, 5, 7])
    with pytest.raises(ValueError, match="kernel_sizes must have 4 entries"):
        kernel_sizes(network_of(weights, "eca_multi.torch").network, [3] * 9)


@pytest.mark.parametrize(
    "value", [torch.empty(5, device="meta"), torch.eye(5).to_sparse()], ids=["without values", "sparse"]
)
def test_tensors_that_are_no_plain_numbers(tmp_path, weights, value):
    torch.save({**torch_model(weights).state_dict(), "fc.bias": value}, tmp_path / "model.pth")
    refused(tmp_path, tmp_path / "model.pth", "path must name a complete file.*tensors that are not stored as numbers")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(tmp_path, weights, value):
    state = torch_model(weights).state_dict()
    state["layer3.0.bn2.weight"][7] = value
    torch.save(state, tmp_path / "model.pth")
    refused(tmp_path, tmp_path / "model.pth", r"'layer3\.0\.bn2\.weight' is not finite", ValueError)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "an empty file"),
        (b"\x1f\x8b\x08\x00", "compressed by gzip"),
        (b"<!DOCTYPE html><html>", "a web page: the link was not that of the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"some text that is no checkpoint", "of another format"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, data, match):
    (tmp_path / "model.safetensors").write_bytes(data)
    refused(tmp_path, tmp_path / "model.safetensors", match)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x82\xa6params\x80", "linen"),
        (b"\x84\xa4step\x01\xa6params\x80", "linen"),  # a TrainState
        (b"\x83\xa8layer1_0\x80", "nnx"),
        (b"\xde\x00\x15\xa3bn1\x80", "nnx"),
        (b"\xdf\x00\x00\x00\x15\xd9\x03bn1\x80", "nnx"),
        (b"\x80\x04\x95\x00", "torch"),  # a bare pickle
        (b"PK\x03\x04" + bytes(22) + b"\x0d\x00\x00\x00metadata.json", "keras"),  # of an archive, the start alone
        (b"PK\x03\x04" + bytes(22) + b"\x0c\x00\x00\x00arc/data.pkl", "torch"),
    ],
)
def test_what_wrote_a_file_is_read_from_its_start(tmp_path, data, kind):
    (tmp_path / "file").write_bytes(data)
    assert detect(tmp_path / "file") == kind


def test_other_archives_and_folders(tmp_path):
    content = io.BytesIO()
    np.savez(content, a=np.ones(3))
    (tmp_path / "model.npz").write_bytes(content.getvalue())
    refused(tmp_path, tmp_path / "model.npz", "a zip archive of something else")
    (tmp_path / "folder").mkdir()
    refused(tmp_path, tmp_path / "folder", "a folder without orbax's _METADATA")
    (tmp_path / "folder" / "_METADATA").write_text("{")
    refused(tmp_path, tmp_path / "folder", "orbax's _METADATA is broken")


def test_a_tar_archive(tmp_path, files):
    with tarfile.open(tmp_path / "model.pth.tar", "w") as archive:
        archive.add(files("timm"), "model.pth")
    refused(tmp_path, tmp_path / "model.pth.tar", "a tar archive: take the checkpoint out of it")


def test_wrong_arguments(tmp_path, files, weights):
    path = tmp_path / "model.safetensors"
    canonical(weights, path)
    with pytest.raises(ValueError, match="to must be torch, keras, linen, nnx or canonical"):
        convert(path, tmp_path / "a.safetensors", to="jax")
    with pytest.raises(ValueError, match=r"target must end in \.safetensors"):
        convert(path, tmp_path / "a.pth", to="canonical")
    with pytest.raises(ValueError, match=r"path must end in \.pth, \.pt"):
        convert(path, tmp_path / "a.bin", to="torch")
    os.symlink(path, tmp_path / "link.safetensors")
    for target in (path, tmp_path / "link.safetensors", path / "a.safetensors"):
        with pytest.raises(ValueError, match="target must be another place than source"):
            convert(path, target, to="canonical")
    with pytest.raises(FileNotFoundError, match="target must be in a folder that exists"):
        convert(path, tmp_path / "none" / "a.safetensors", to="canonical")
    with pytest.raises(FileNotFoundError, match="No such file"):
        convert(tmp_path / "none.pth", tmp_path / "a.safetensors", to="canonical")
    assert_same(load_file(path), weights)
