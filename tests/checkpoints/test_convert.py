"""convert: every format that people have, to every framework, bit by bit."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from eca_multi.checkpoints import CheckpointError, ConversionReport, convert, load_file, read_checkpoint
from eca_multi.checkpoints.detect import detect
from tests.support.checkpoint_factory import (
    FORMATS,
    TARGETS,
    network_of,
    original,
    ours_torch,
    random_weights,
    torch_model,
)
from tests.support.converting import ARCH, KERNELS, SLOW, assert_same, digest, marks

# --- every source, every target --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [  # JAX compiles each operation of the builder; what a file holds does not depend on the backend
        pytest.param(
            name, marks=[*marks(name, slow=form.slow), *([pytest.mark.slow_on("jax")] if "keras" in name else [])]
        )
        for name, form in FORMATS.items()
    ],
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


# --- the report, the metadata, progress ------------------------------------------------------------------------------


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


@pytest.mark.slow
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
