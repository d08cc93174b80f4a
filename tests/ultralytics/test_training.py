"""Training, checkpoints, resuming, prediction and export with ECA, on a data set made on the spot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.yolo import require_ultralytics, settle, with_lines, write_data

require_ultralytics()

import torch  # noqa: E402  (the module is skipped before)
from torch import nn  # noqa: E402
from ultralytics import YOLO  # noqa: E402
from ultralytics.utils import YAML  # noqa: E402

from eca_multi.torch import eca_parameters, installed_eca  # noqa: E402
from eca_multi.ultralytics import insert_eca, load_plain, register, unregister  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
TRAINING = {"epochs": 2, "imgsz": 64, "batch": 2, "device": "cpu", "workers": 0, "plots": False, "verbose": False}
EVERY_STEP = {"optimizer": "SGD", "lr0": 0.02, "warmup_epochs": 0, "nbs": 2}  # a step after each batch, at full rate
SMALL = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C2f", [16, True]], [-1, 1, "Conv", [32, 3, 2]]],
    "head": [[-1, 1, "C2f", [32]], [[1, 3], 1, "Detect", ["nc"]]],
}
# Reads a saved network, trains it, is stopped after the first epoch, and resumes; it never imports eca_multi itself.
OTHER_PROCESS = """
import sys
from tests.support.yolo import settle
settle("runs")
from ultralytics import YOLO
assert "eca_multi.torch" not in sys.modules
def count(model): return sum(name.endswith("eca.conv.weight") for name in model.state_dict())
class Stopped(Exception): pass
def stop(trainer):
    if trainer.epoch == 0: raise Stopped
yolo = YOLO("saved.pt")
print("loaded", count(yolo.model))
yolo.add_callback("on_model_save", stop)
try:
    yolo.train(data="data.yaml", **{training!r}, name="other")
except Stopped:
    print("stopped", count(yolo.trainer.model), count(yolo.trainer.ema.ema))
again = YOLO(yolo.trainer.last)
again.train(resume=True)
print("resumed", again.trainer.epoch, count(again.model))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settle(str(tmp_path / "runs"))
    write_data(tmp_path)
    YAML.save(tmp_path / "small.yaml", SMALL)
    yield tmp_path
    unregister()


def train(yolo, **options):
    yolo.train(data="data.yaml", **{**TRAINING, **EVERY_STEP, **options})
    return yolo


def sites(model):
    return installed_eca(model).paths


def test_train_save_read_and_resume(here):
    torch.manual_seed(0)
    yolo = insert_eca(YOLO("small.yaml"), ["c2f", "before Detect"])
    start = yolo.model.state_dict()["model.0.conv.weight"].clone()
    train(yolo, name="first")
    assert sites(yolo.model) == ("model.1", "model.3")
    assert any(kernel.detach().abs().max() > 0 for kernel in eca_parameters(yolo.model))  # they were trained
    moved = (yolo.model.state_dict()["model.0.conv.weight"] - start).abs().max()
    assert moved < 0.5 * start.abs().max()  # training began at these weights, not at others
    for file in ("last.pt", "best.pt"):
        assert sites(torch.load(here / "runs/detect/first/weights" / file, weights_only=False)["model"]) == sites(
            yolo.model
        )
    yolo.val(data="data.yaml", imgsz=64, device="cpu", plots=False, name="val")
    assert sites(yolo.model) == ("model.1", "model.3")
    yolo.save("saved.pt")
    code = OTHER_PROCESS.replace("{training!r}", repr({**TRAINING, "epochs": 3}))
    path = os.pathsep.join([p for p in sys.path if p])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )
    said = [line for line in done.stdout.splitlines() if line.startswith(("loaded", "stopped", "resumed"))]
    assert said == ["loaded 2", "stopped 2 2", "resumed 2 2"], done.stderr[-2000:]


def test_without_the_record_training_loses_the_gates(here):
    """The control: what happens to gates of which the YAML says nothing."""
    yolo = insert_eca(YOLO("small.yaml"), "c2f")
    yolo.model.yaml.pop("eca")
    assert not sites(train(yolo, epochs=1, name="lost").model)


def test_from_a_yaml_with_lines_and_a_plain_checkpoint(here):
    register()
    plain = YOLO("small.yaml")
    plain.save("plain.pt")
    YAML.save(here / "eca.yaml", with_lines(SMALL, (1, [{"init": "identity"}])))
    yolo = YOLO("eca.yaml")
    loaded = load_plain(yolo, "plain.pt")
    assert loaded.moved == loaded.total == len(plain.model.state_dict())
    train(yolo, epochs=1, name="lines")
    assert yolo.model.model[2].gate == "2sigmoid"
    assert yolo.model.model[2].conv.weight.abs().max() > 0


@pytest.mark.parametrize("where", ["residual", ["c2f", "before Detect"]])
def test_gradients_under_autocast(here, where):
    model = insert_eca(YOLO("small.yaml"), where).model.train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.rand(2, 3, 64, 64))
        loss = sum(value.float().square().mean() for value in outputs.values() if isinstance(value, torch.Tensor))
    loss.backward()
    assert all(kernel.grad is not None and kernel.grad.abs().max() > 0 for kernel in eca_parameters(model))


def shaken(yolo):
    """Norms with the statistics of real activations, and kernels off the identity, so that a lost gate shows."""
    torch.manual_seed(0)
    for module in yolo.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.normal_(module.bias, std=0.5)
    yolo.model.train()(torch.rand(8, 3, 64, 64))
    for branch in (*yolo.model.model[-1].cv2, *yolo.model.model[-1].cv3):
        branch[-1].weight.data.mul_(5)
    for kernel in eca_parameters(yolo.model):
        nn.init.normal_(kernel)
    return yolo


def run_torchscript(path, x):
    return torch.jit.load(path)(x)


def run_onnx(path, x):
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def run_openvino(path, x):
    openvino = pytest.importorskip("openvino")
    (file,) = Path(path).glob("*.xml")
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled(x.numpy())[0])


RUNS = {"torchscript": run_torchscript, "onnx": run_onnx, "openvino": run_openvino}


@pytest.mark.parametrize("kind", RUNS)
def test_exports_hold_the_gates(here, kind):
    yolo = shaken(insert_eca(YOLO("small.yaml"), "c2f"))
    x = torch.rand(1, 3, 64, 64)
    expected = yolo.model.eval()(x)[0]
    options = {"simplify": False} if kind == "onnx" else {}
    exported = RUNS[kind](yolo.export(format=kind, imgsz=64, verbose=False, **options), x)
    torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-3)
    assert sites(yolo.model) == ("model.1", "model.3")  # export works on a copy
    for kernel in eca_parameters(yolo.model):
        nn.init.zeros_(kernel)
    plain = yolo.model(x)[0]
    assert (exported - plain).abs().max() > 0.1  # the control: a network without gates differs
