"""convert: every format that people have, to every framework, bit by bit; and what is refused."""

import errno
import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from typer.testing import CliRunner

from eca_multi._files.file import write_atomically
from eca_multi.checkpoints import CheckpointError, ConversionReport, convert, load_file, read_checkpoint
from eca_multi.checkpoints.detect import detect
from eca_multi.cli.main import app
from eca_multi.networks import kernel_sizes
from tests.support.checkpoint_factory import (
    FORMATS,
    TARGETS,
    canonical,
    network_of,
    original,
    ours_torch,
    random_weights,
    torch_model,
)

ARCH = "eca_resnet18"
KERNELS = (3, 3, 5, 5, 7, 7, 7, 7)
SLOW = ("eca_mobilenet_v2", "ecaresnet26t", "ecaresnext26t_32x4d", "ecaresnetlight", "ecaresnet50d_pruned")


@pytest.fixture(scope="module")
def weights():
    return random_weights(ARCH, num_classes=5)


@pytest.fixture(scope="module")
def files(tmp_path_factory, weights):
    """The file of each format, written when it is asked for."""
    made = {}

    def file(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / FORMATS[name].file
            FORMATS[name].write(weights, made[name])
        return made[name]

    return file


def marks(*names, slow=False):
    result = [pytest.mark.keras] if any("keras" in name for name in names) else []
    return result + ([pytest.mark.slow] if slow else [])


def assert_same(held, weights):
    assert set(held) == set(weights)
    for name, array in weights.items():
        assert held[name].dtype == array.dtype
        assert np.array_equal(held[name], array), name


def digest(path):
    """Of a file; of a folder, as the page says it."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    result = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        data = file.read_bytes()
        result.update(f"{file.relative_to(path).as_posix()}\0{len(data)}\0".encode() + data)
    return result.hexdigest()


# --- every source, every target ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks(name, slow=form.slow)) for name, form in FORMATS.items()]
)
def test_every_source(tmp_path, files, weights, name):
    """To canonical weights, bit by bit; the source is as it was."""
    source = files(name)
    before = digest(source), os.stat(source).st_mtime_ns
    assert detect(source) == FORMATS[name].kind
    report = convert(source, tmp_path / "canonical.safetensors", to="canonical")
    assert_same(load_file(tmp_path / "canonical.safetensors"), weights)
    assert (digest(source), os.stat(source).st_mtime_ns) == before
    assert (report.kind, report.sha256) == (FORMATS[name].kind, before[0])
    assert (report.architecture, report.kernel_sizes) == (ARCH, KERNELS)
    assert set(report.matched) == set(weights)
    assert (report.missing, report.unexpected, report.misshaped) == ((), (), ())


@pytest.mark.parametrize(
    ("to", "suffix"),
    [pytest.param(to, suffix, marks=marks(to)) for to, suffixes in TARGETS.items() for suffix in suffixes],
)
def test_every_target(tmp_path, files, weights, to, suffix):
    """What is written is read again, with what was written beside it."""
    target = tmp_path / f"model{suffix}"
    report = convert(files("original"), target, to=to)
    checkpoint = read_checkpoint(target)
    assert_same(checkpoint.weights, weights)
    assert checkpoint.found.kernel_sizes == KERNELS
    assert report.metadata.items() <= checkpoint.facts.items()
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("name", "to"),
    [
        pytest.param(name, to, marks=marks(name, to, slow=True))
        for name in FORMATS
        for to in TARGETS
        if to != "canonical"
    ],
)
def test_every_source_to_every_target(tmp_path, files, weights, name, to):
    target = tmp_path / f"model{TARGETS[to][0]}"
    convert(files(name), target, to=to)
    assert_same(read_checkpoint(target).weights, weights)


@pytest.mark.parametrize("arch", [pytest.param(arch, marks=marks(slow=True)) for arch in SLOW])
@pytest.mark.parametrize("to", [pytest.param(to, marks=marks(to)) for to in TARGETS])
def test_other_networks(tmp_path, arch, to):
    weights = random_weights(arch, num_classes=3)
    original(weights, tmp_path / "source.pth.tar")
    report = convert(tmp_path / "source.pth.tar", tmp_path / f"model{TARGETS[to][0]}", to=to)
    assert report.architecture == arch
    assert_same(read_checkpoint(report.target).weights, weights)


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 0},
        {"num_classes": 2, "in_channels": 1},
        {"num_classes": 2, "dims": 1},
        {"num_classes": 2, "kernels": [9, 1, 3, 5]},
    ],
    ids=["no classifier", "one channel", "signals", "own kernels"],
)
def test_networks_that_were_built_otherwise(tmp_path, options):
    weights = random_weights(ARCH, **options)
    ours_torch(weights, tmp_path / "model.pth")
    report = convert(tmp_path / "model.pth", tmp_path / "model.safetensors", to="torch")
    checkpoint = read_checkpoint(report.target)
    assert_same(checkpoint.weights, weights)
    state = safetensors.torch.load_file(report.target)
    network_of(weights, "eca_multi.torch").load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_are_kept(tmp_path, weights, dtype):
    """But bfloat16, which becomes float32, exactly."""
    state = {name: value.to(dtype) for name, value in torch_model(weights).state_dict().items()}
    torch.save(state, tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "model.safetensors", to="canonical")
    held = load_file(tmp_path / "model.safetensors")["layer2.0.conv1.weight"]
    wide = state["layer2.0.conv1.weight"].float() if dtype == torch.bfloat16 else state["layer2.0.conv1.weight"]
    assert held.dtype == wide.numpy().dtype
    assert np.array_equal(held, wide.numpy())


def test_tensors_that_are_stored_otherwise(tmp_path, weights):
    """Channels last, and as a part of a larger storage."""
    state = torch_model(weights).state_dict()
    name = "layer2.0.conv1.weight"
    state[name] = state[name].contiguous(memory_format=torch.channels_last)
    state["fc.bias"] = torch.stack([torch.zeros(5), state["fc.bias"]], 1)[:, 1]
    torch.save(state, tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "new.pth", to="torch")
    assert_same(read_checkpoint(tmp_path / "new.pth").weights, weights)
    held = torch.load(tmp_path / "new.pth", weights_only=True)["state_dict"]
    assert all(value.is_contiguous() for value in held.values())


def test_a_torch_target_is_a_state_dict(tmp_path, files, weights):
    convert(files("canonical"), tmp_path / "model.pth.tar", to="torch")
    state = torch.load(tmp_path / "model.pth.tar", weights_only=True)["state_dict"]
    model = network_of(weights, "eca_multi.torch")
    model.load_state_dict(state)
    assert torch.equal(model.layer1[0].eca.conv.weight.flatten(), torch.tensor(weights["layer1.0.eca.weight"]))
    assert list(state) == [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]


@pytest.mark.parametrize("key", ["ema.model", "ema.dotted.name"])
def test_a_key_inside_another(tmp_path, weights, key):
    state = torch_model(weights).state_dict()
    torch.save({"ema": {"model": state, "dotted.name": state}, "epoch": 3}, tmp_path / "model.pth")
    checkpoint = read_checkpoint(tmp_path / "model.pth", key=key)
    assert_same(checkpoint.weights, weights)
    assert checkpoint.facts == {"key": key, "epoch": "3"}
    for wrong in ("ema", "ema.none", "ema.model.fc", "epoch.model"):
        with pytest.raises(CheckpointError, match=f"a state dict of tensors at '{wrong}'"):
            read_checkpoint(tmp_path / "model.pth", key=wrong)


def test_an_averaged_model_by_its_key(tmp_path, weights):
    state = torch_model(weights).state_dict()
    average = {name: value * 2 for name, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": average}, tmp_path / "model.pth")
    report = convert(tmp_path / "model.pth", tmp_path / "a.safetensors", to="canonical", key="state_dict_ema")
    assert np.array_equal(load_file(report.target)["fc.bias"], weights["fc.bias"] * 2)
    assert json.loads(report.metadata["facts"]) == {"key": "state_dict_ema"}
    with pytest.raises(ValueError, match="key must be None for a file of safetensors"):
        convert(report.target, tmp_path / "b.pth", to="torch", key="state_dict")


# --- the report, the metadata, progress ----------------------------------------------------------------------------


def test_the_metadata(tmp_path, files):
    source = files("original")
    report = convert(source, tmp_path / "a.safetensors", to="canonical")
    assert isinstance(report, ConversionReport)
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata == report.metadata
    assert metadata["source"] == "eca_resnet18_k3577.pth.tar"
    assert metadata["sha256"] == digest(source)
    assert metadata["architecture"] == ARCH
    assert tuple(json.loads(metadata["kernel_sizes"])) == KERNELS
    assert metadata["num_classes"] == "5"
    facts = {"key": "state_dict", "epoch": "100", "arch": "se_resnet50", "best_prec1": "70.5"}
    assert json.loads(metadata["facts"]) == facts
    second = convert(tmp_path / "a.safetensors", tmp_path / "b.pth", to="torch")
    third = convert(tmp_path / "b.pth", tmp_path / "c.safetensors", to="torch")
    assert json.loads(third.metadata["facts"]) == facts
    assert second.metadata["source"] == "a.safetensors"
    assert str(tmp_path) not in json.dumps(third.metadata)


def test_the_reports_text(tmp_path, files):
    report = convert(files("timm"), tmp_path / "a.safetensors", to="canonical")
    assert str(report).splitlines() == [
        f"source   {files('timm')} (torch)",
        f"sha256   {report.sha256}",
        f"target   {tmp_path / 'a.safetensors'} (canonical)",
        "network  eca_resnet18, 5 classes",
        "kernels  3 3 5 5 7 7 7 7",
        "tensors  110 matched",
    ]


def test_progress_is_told(tmp_path, files):
    told = []
    convert(files("timm"), tmp_path / "a.safetensors", to="canonical", progress=lambda *step: told.append(step))
    for what in ("hash", "read", "write"):
        done = [step[1:] for step in told if step[0] == what]
        assert done == sorted(done)
        assert done[0][0] == 0
        assert done[-1][0] == done[-1][1] > 0
    assert [what for i, (what, *_) in enumerate(told) if not i or told[i - 1][0] != what] == ["hash", "read", "write"]


@pytest.mark.parametrize(
    ("suffix", "to", "wanted"),
    [("safetensors", "canonical", []), ("pth", "canonical", ["torch"]), ("safetensors", "torch", ["torch"])],
)
def test_only_the_frameworks_that_are_needed(tmp_path, files, suffix, to, wanted):
    source = files("canonical") if suffix == "safetensors" else files("timm")
    code = (
        "import sys; from eca_multi.checkpoints import convert\n"
        f"convert({str(source)!r}, 'new.safetensors', to={to!r})\n"
        "print(*sorted({'torch', 'tensorflow', 'keras', 'jax', 'flax', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True
    )
    assert done.stdout.split() == wanted


# --- what is refused -----------------------------------------------------------------------------------------------


def refused(tmp_path, source, match, error=CheckpointError, **options):
    """Nothing is written, and a target that was there stays as it is."""
    target = tmp_path / "out" / "target.safetensors"
    target.parent.mkdir(exist_ok=True)
    target.write_text("the old one")
    with pytest.raises(error, match=match):
        convert(source, target, **{"to": "canonical", **options})
    assert [(path.name, path.read_text()) for path in target.parent.iterdir()] == [(target.name, "the old one")]


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


# --- what is not destroyed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["linen", "nnx"])
@pytest.mark.parametrize("target", ["checkpoints", ".", "..", "link", "link/", "here"])
def test_a_folder_of_ones_own_is_kept(tmp_path, files, monkeypatch, target, to):
    """It is refused at once, on one line, with status 2."""
    source = files("timm")
    here = tmp_path / "here"
    (here / "checkpoints").mkdir(parents=True)
    (here / "checkpoints" / "train.py").write_text("mine")
    (here / "link").symlink_to("checkpoints")
    (here / "here").symlink_to(here)
    before = {path: os.lstat(path) for path in (tmp_path, *tmp_path.rglob("*"))}
    monkeypatch.chdir(here)
    module = import_module("eca_multi.checkpoints.convert")  # by name, the package has the function instead
    monkeypatch.setattr(module, "detect", lambda path: pytest.fail("it is refused too late"))
    done = run(source, target, "--to", to)
    assert done.exit_code == 2
    assert "path must name a new folder, an empty one, or a checkpoint of orbax" in done.stderr
    assert f"Received: {str(Path(target))!r}, which " in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path: os.lstat(path) for path in (tmp_path, *tmp_path.rglob("*"))} == before


@pytest.mark.parametrize(
    ("to", "target"), [("torch", "a.pth"), ("keras", "a.keras"), ("nnx", "a.msgpack"), ("canonical", "a.safetensors")]
)
def test_a_folder_where_a_file_is_wanted(tmp_path, files, target, to):
    (tmp_path / target).mkdir()
    done = run(files("timm"), tmp_path / target, "--to", to)
    assert done.exit_code == 2
    assert f"target must be a file. Received: '{tmp_path / target}', a folder. Name a file in it." in done.stderr
    assert [*tmp_path.rglob("*")] == [tmp_path / target]


@pytest.mark.parametrize("to", ["torch", "canonical"])
def test_paths_in_bytes_and_permissions_that_are_kept(tmp_path, files, weights, to):
    target = tmp_path / "there.safetensors"
    target.write_text("the old one")
    target.chmod(0o640)
    (tmp_path / "model.safetensors").symlink_to(target)
    report = convert(os.fsencode(files("timm")), os.fsencode(tmp_path / "model.safetensors"), to=to)
    assert report.source == str(files("timm"))
    assert os.readlink(tmp_path / "model.safetensors") == str(target)
    assert target.stat().st_mode & 0o7777 == 0o640
    assert_same(read_checkpoint(target).weights, weights)


# --- signals -------------------------------------------------------------------------------------------------------

# The command, to which a signal is sent when it writes: once the first bytes are there, and after a while more.
SIGNALLED = """
import os, sys, threading, time
from pathlib import Path
number, wait, folder = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
sys.argv[1:] = sys.argv[4:]
def signal():
    while not any(path.is_file() for path in folder.rglob("*") if ".eca-" in str(path)):
        time.sleep(0.002)
    time.sleep(wait)
    os.kill(os.getpid(), number)
threading.Thread(target=signal, daemon=True).start()
fsync = os.fsync
os.fsync = lambda handle: (time.sleep(0.3), fsync(handle))  # a slow disk: the signal comes before the end
from eca_multi.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("to", "suffix", "wait"),
    [
        ("canonical", ".safetensors", 0),
        *(pytest.param("torch", suffix, 0, marks=pytest.mark.slow) for suffix in (".pth", ".safetensors")),
        *(pytest.param("nnx", "", wait, marks=pytest.mark.slow) for wait in (0, 0.05, 0.1, 0.2, 0.4)),
        pytest.param("linen", ".msgpack", 0, marks=pytest.mark.slow),
        *(pytest.param("keras", ".keras", wait, marks=marks("keras", slow=True)) for wait in (0, 0.3)),
    ],
)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_signal_leaves_the_old_target_and_nothing_beside_it(tmp_path, files, name, to, suffix, wait):
    number, target = getattr(signal, name), tmp_path / f"model{suffix}"
    if suffix:
        target.write_text("the old one")
    command = ["convert", files("canonical"), target, "--to", to]
    run = [sys.executable, "-c", SIGNALLED, str(int(number)), str(wait), tmp_path, *command]
    done = subprocess.run(list(map(str, run)), capture_output=True, text=True, check=False, timeout=200)
    if name == "SIGKILL":  # the control: nobody could clear up, and the next writer does
        assert done.returncode == -number
        assert [path for path in tmp_path.iterdir() if path != target] != []
        write_atomically(tmp_path / "other", b"")
        (tmp_path / "other").unlink()
    else:
        assert done.returncode == 128 + number, done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(target.name, "the old one")] * bool(
        suffix
    )


# --- a disk that fills ---------------------------------------------------------------------------------------------

FULL = [(to, suffix) for to, suffixes in TARGETS.items() for suffix in suffixes if suffix]
FOLDERS = [pytest.param(to, "", marks=marks(slow=True)) for to in TARGETS if "" in TARGETS[to]]


@pytest.mark.parametrize(("to", "suffix"), [pytest.param(*case, marks=marks(case[0])) for case in FULL])
def test_a_disk_that_fills_at_the_end(tmp_path, files, monkeypatch, to, suffix):
    """Known when the file is flushed: the old file stays, and nothing beside it."""

    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / f"model{suffix}"
    target.write_text("the old one")
    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OSError, match="No space left on device"):
        convert(files("timm"), target, to=to)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(target.name, "the old one")]


@pytest.mark.parametrize(
    ("to", "suffix"),
    [pytest.param(to, suffixes[0], marks=marks(to, slow=to != "torch")) for to, suffixes in TARGETS.items()]
    + [("torch", ".safetensors"), *FOLDERS],
)
def test_a_disk_that_fills_midway(tmp_path, files, to, suffix):
    """No file may be longer than a tenth of what is to be written: a real error of the system, in a real process."""
    blocks = 4_000_000 // (1024 if sys.platform == "linux" else 512)
    run = [sys.executable, "-m", "eca_multi", "convert", files("timm"), tmp_path / f"model{suffix}", "--to", to]
    done = subprocess.run(
        ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "bash", *map(str, run)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr or not suffix  # orbax's threads may complain on their own
    assert list(tmp_path.iterdir()) == []


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process its largest resident set")
def test_memory_is_at_most_one_and_a_half_files():
    script = Path(__file__).parents[2] / "benchmarks" / "convert_memory.py"
    run = [sys.executable, script, "--arch", "eca_resnet50", "--pairs", "torch-canonical", "canonical-torch"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=200, check=True)
    shares = [float(line.split("|")[-2]) for line in done.stdout.splitlines()[2:]]
    assert len(shares) == 2
    assert all(0.1 < share <= 1.5 for share in shares), done.stdout  # nothing is that small but what was not measured


# --- the command line ----------------------------------------------------------------------------------------------


def run(*args):
    return CliRunner().invoke(app, ["convert", *map(str, args)])


def test_the_command(tmp_path, files):
    done = run(files("timm"), tmp_path / "a.safetensors", "--to", "canonical", "--arch", ARCH)
    assert done.exit_code == 0, done.output
    assert "network  eca_resnet18, 5 classes" in done.stdout
    assert done.stderr == ""
    assert len(load_file(tmp_path / "a.safetensors")) == 110


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["SOURCE", "a.safetensors", "--to", "flax"], "to must be torch, keras, linen, nnx or canonical"),
        (["SOURCE", "a.safetensors", "--to", "torch", "--arch", "eca_resnet50"], "It is of eca_resnet18."),
        (["SOURCE", "a.bin", "--to", "torch"], "path must end in"),
        (["SOURCE", "none/a.pth", "--to", "torch"], "target must be in a folder that exists"),
        (["none.pth", "a.pth", "--to", "torch"], "No such file or directory"),
        (["SOURCE", "a.pth", "--to", "torch", "--key", "none"], "at 'none'"),
    ],
)
def test_an_error_is_one_line_and_status_2(tmp_path, files, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    done = run(*[arg.replace("SOURCE", str(files("timm"))) for arg in args])
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_bar_on_large_files(tmp_path, files, monkeypatch):
    monkeypatch.setattr("eca_multi.cli.convert._LARGE", 1 << 20)
    done = run(files("timm"), tmp_path / "a.safetensors", "--to", "canonical")
    assert done.exit_code == 0, done.output
    assert "Writing" in done.stderr
    assert "network" in done.stdout


def test_a_framework_that_is_not_installed(tmp_path, files):
    code = (
        "import sys; sys.modules['torch'] = None\nfrom eca_multi.__main__ import main\n"
        f"sys.argv = ['eca-multi', 'convert', {str(files('canonical'))!r}, 'a.pth', '--to', 'torch']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip().endswith('Run: pip install "eca-multi[torch]"')


def test_the_page_lists_what_can_be_written():
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    for to, suffixes in TARGETS.items():
        listed = " ".join(row[2] for row in rows if f"`{to}`" in row[1])
        assert all((f"`{suffix}`" if suffix else "folder") in listed for suffix in suffixes), to
