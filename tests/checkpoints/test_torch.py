"""Files that torch wrote: the original's and timm's formats from random weights; nothing in them is run."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch

from eca_multi.checkpoints import CheckpointError
from eca_multi.torch import eca_mobilenet_v2, eca_resnet18, ecaresnet26t, from_canonical, to_canonical
from eca_multi.torch.checkpoints import read_checkpoint


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return eca_resnet18(num_classes=3)


def original(model, **more):
    """What the original ECANet's main.py saves under DataParallel, its optimizer's state beside the weights."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {
        "epoch": 100,
        "arch": "se_resnet50",  # what users report to stand there
        "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()},
        "best_prec1": torch.tensor(70.5),
        "optimizer": optimizer.state_dict(),
        **more,
    }


def timms(model):
    return {name.replace(".eca.", ".se."): value for name, value in model.state_dict().items()}


def assert_same(checkpoint, model):
    weights = to_canonical(model)
    assert list(checkpoint.weights) == list(weights)
    assert all(np.array_equal(checkpoint.weights[name], weights[name]) for name in weights)


zipped = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@zipped
def test_the_originals_file(tmp_path, model, zipped):
    """Both formats: the released files are of torch 1.0, older than the zip."""
    path = tmp_path / "eca_resnet18_k3577.pth.tar"
    torch.save(original(model), path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint, model)
    assert checkpoint.found.network.name == "eca_resnet18"
    assert by_stage(checkpoint.found.kernel_sizes) == (3, 5, 7, 7)
    assert checkpoint.facts == {"key": "state_dict", "epoch": "100", "arch": "se_resnet50", "best_prec1": "70.5"}


def by_stage(sizes):
    return tuple(sizes[::2])


@zipped
def test_harmless_objects_beside_the_weights(tmp_path, model, zipped):
    """NumPy's numbers and the namespace of a training script's options hold no code."""
    path = tmp_path / "model.pth.tar"
    more = {"best": np.float64(70.25), "loss": np.float32(0.5), "args": argparse.Namespace(lr=0.1)}
    torch.save(original(model, **more), path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint, model)
    assert checkpoint.facts["best"] == "70.25"


def test_timms_file(tmp_path):
    model = ecaresnet26t(num_classes=3)
    torch.save(timms(model), tmp_path / "model.pth")
    checkpoint = read_checkpoint(tmp_path / "model.pth", "ecaresnet26t")
    assert_same(checkpoint, model)
    assert checkpoint.facts == {}
    other = from_canonical(ecaresnet26t(num_classes=3), checkpoint.weights)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_a_key_can_be_given(tmp_path, model):
    average = {name: value + 1 for name, value in model.state_dict().items()}
    path = tmp_path / "model.pth"
    torch.save({"state_dict": model.state_dict(), "state_dict_ema": average, "weird": model.state_dict()}, path)
    assert_same(read_checkpoint(path), model)
    assert np.array_equal(
        read_checkpoint(path, key="state_dict_ema").weights["fc.bias"], (model.fc.bias + 1).detach().numpy()
    )
    assert read_checkpoint(path, key="weird").facts["key"] == "weird"
    with pytest.raises(
        CheckpointError, match=r"at 'none'. Received: .*with \['state_dict', 'state_dict_ema', 'weird'\]"
    ):
        read_checkpoint(path, key="none")


def test_bfloat16_and_mobilenet(tmp_path):
    model = eca_mobilenet_v2(num_classes=3, dtype=torch.bfloat16)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert checkpoint.weights["classifier.1.weight"].dtype == np.float32
    assert_same(checkpoint, model)


def test_another_number_of_classes_and_features(tmp_path):
    model = eca_mobilenet_v2(num_classes=5)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    checkpoint = read_checkpoint(tmp_path / "model.pth")
    other = eca_mobilenet_v2(num_classes=3)
    before = other.classifier[1].weight.detach().clone()
    from_canonical(other, {**to_canonical(other), **checkpoint.backbone()})
    assert torch.equal(other.classifier[1].weight, before)
    assert torch.equal(other.features[18][0].weight, model.features[18][0].weight)
    backbone = from_canonical(eca_mobilenet_v2(features_only=True), checkpoint.backbone(features_only=True))
    assert torch.equal(backbone.features[3].conv[2].weight, model.features[3].conv[2].weight)


# --- what is refused -----------------------------------------------------------------------------------------------


class Runs:
    """Would make a folder when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare", "bare 0"])
def test_code_is_refused_and_named(tmp_path, model, form):
    path, folder = tmp_path / "model.pth", tmp_path / "made"
    content = original(model, extra=Runs(folder))
    if form.startswith("bare"):
        content["state_dict"] = content["optimizer"] = None
        content["best_prec1"] = 70.5
        path.write_bytes(pickle.dumps(content, protocol=0 if form == "bare 0" else 4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"model\.pth', which would call \w+\.mkdir\. Nothing of it was run"):
        read_checkpoint(path)
    assert not folder.exists()
    pickle.loads(pickle.dumps(Runs(folder)))
    assert folder.exists(), "the object does run what it says"


def test_a_whole_model_is_refused(tmp_path, model):
    torch.save(model, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"would call eca_multi\.torch\.networks\.ECAResNet"):
        read_checkpoint(tmp_path / "model.pth")


@zipped
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files(tmp_path, model, zipped, share):
    path = tmp_path / "model.pth"
    torch.save(original(model), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"path must name a complete file that torch\.save wrote") as info:
        read_checkpoint(path)
    assert "weights_only" not in str(info.value), "torch's own text advises to switch the check off"


@pytest.mark.parametrize("content", [b"no checkpoint", b"PK\x03\x04", b"\x80\x02}q\x00.", bytes(range(256))])
def test_other_files(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="path must name a complete file"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], torch.ones(3), {}, {"state_dict": {"a": "b"}}])
def test_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="must hold a state dict of tensors at '' or 'state_dict' or"):
        read_checkpoint(tmp_path / "model.pth")


def test_weights_that_are_incomplete_or_broken(tmp_path, model):
    path = tmp_path / "model.pth"
    state = dict(model.state_dict())
    torch.save({**state, "fc.bias": torch.full((3,), torch.nan)}, path)
    with pytest.raises(ValueError, match=r"'fc\.bias' is not finite"):
        read_checkpoint(path)
    del state["layer4.1.bn2.weight"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"1 missing: layer4\.1\.bn2\.weight"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"must hold the tensors of eca_resnet34\. The nearest networks are"):
        read_checkpoint(path, "eca_resnet34")
    with pytest.raises(FileNotFoundError, match="No such file"):
        read_checkpoint(tmp_path / "none.pth")
