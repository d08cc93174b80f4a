"""Presets of keras-hub, where it is installed: a gated task goes through them, a backbone through a plain one."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from eca_multi.keras import eca_parameters, eca_state, insert_eca, installed_eca, remove_eca
from eca_multi.keras.surgery.verify import run

pytestmark = [pytest.mark.keras, pytest.mark.slow]
NEEDS = "keras-hub is not installed here: the zoo's environment has it (`make zoo`)"
CODE = """
import sys
import numpy as np
import keras_hub
from eca_multi.keras import insert_eca, load_eca_state
from eca_multi.keras.surgery.verify import run
from eca_multi.surgery.plan import ECAPlan
folder = sys.argv[1]
xy = np.load(f"{folder}/xy.npz")
"""
TASK = "model = keras_hub.models.ImageClassifier.from_preset(folder)\n"
BACKBONE = """
plain = keras_hub.models.Backbone.from_preset(folder)
model = insert_eca(plain, plan=ECAPlan.load(f"{folder}/eca_plan.json"))
load_eca_state(model, np.load(f"{folder}/eca.npz"))
"""
END = "assert np.array_equal(run(model, xy['x'])[0], xy['y']), 'outputs differ'\n"


def backbone():
    hub = pytest.importorskip("keras_hub", reason=NEEDS)
    return hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block", image_shape=(16, 16, 3),
    )  # fmt: skip


def off_identity(model):
    for kernel in eca_parameters(model):
        kernel.assign(np.random.default_rng(1).normal(0, 0.5, kernel.shape).astype("float32"))
    return model


def in_a_fresh_process(code, model, folder):
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype("float32")
    np.savez(folder / "xy.npz", x=x, y=run(model, x)[0])
    done = subprocess.run([sys.executable, "-c", CODE + code + END, str(folder)], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def test_a_task_goes_through_its_preset(tmp_path):
    keras_hub = pytest.importorskip("keras_hub", reason=NEEDS)
    task = keras_hub.models.ResNetImageClassifier(backbone=backbone(), num_classes=3, preprocessor=None)
    new = off_identity(insert_eca(task))
    new.save_to_preset(str(tmp_path))
    again = keras_hub.models.ImageClassifier.from_preset(str(tmp_path))  # where insertion has made classes, too
    assert installed_eca(again) == installed_eca(new)
    assert in_a_fresh_process(TASK, new, tmp_path) == ""


def test_a_backbone_goes_through_a_plain_preset(tmp_path):
    new = off_identity(insert_eca(backbone()))
    remove_eca(new).save_to_preset(str(tmp_path))
    installed_eca(new).save(tmp_path / "eca_plan.json")
    np.savez(tmp_path / "eca.npz", **eca_state(new))
    assert in_a_fresh_process(BACKBONE, new, tmp_path) == ""
    np.savez(tmp_path / "eca.npz", **{key: 0 * value for key, value in eca_state(new).items()})
    assert "outputs differ" in in_a_fresh_process(BACKBONE, new, tmp_path)


def test_a_backbone_with_eca_is_refused_by_from_preset(tmp_path):
    """What the page says; `keras.saving` reads the same files."""
    new = off_identity(insert_eca(backbone()))
    new.save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match="Saved preset has type `WithECA` which is not a subclass"):
        type(backbone()).from_preset(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    again = keras.saving.deserialize_keras_object(config)
    again.load_weights(str(tmp_path / "model.weights.h5"))
    assert installed_eca(again) == installed_eca(new)
