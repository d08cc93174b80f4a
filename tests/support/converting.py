"""What the tests of convert share."""

import hashlib

import numpy as np
import pytest
from typer.testing import CliRunner

from eca_multi.checkpoints import CheckpointError, convert
from eca_multi.cli.main import app

ARCH = "eca_resnet18"
KERNELS = (3, 3, 5, 5, 7, 7, 7, 7)
SLOW = ("eca_mobilenet_v2", "ecaresnet26t", "ecaresnext26t_32x4d", "ecaresnetlight", "ecaresnet50d_pruned")


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


def refused(tmp_path, source, match, error=CheckpointError, **options):
    """Nothing is written, and a target that was there stays as it is."""
    target = tmp_path / "out" / "target.safetensors"
    target.parent.mkdir(exist_ok=True)
    target.write_text("the old one")
    with pytest.raises(error, match=match):
        convert(source, target, **{"to": "canonical", **options})
    assert [(path.name, path.read_text()) for path in target.parent.iterdir()] == [(target.name, "the old one")]


def run(*args):
    return CliRunner().invoke(app, ["convert", *map(str, args)])
