"""`eca-multi gates`: a file, or a network that is run on data."""

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from eca_multi.cli.main import app
from eca_multi.gates import load_gates
from tests.support.gate_records import record

FILE = """
import numpy as np

x = np.random.default_rng(0).normal(size=(10, 3, 9, 9)).astype("float32")
y = ["cat", "dog"] * 5

def torch_net():
    import torch
    from eca_multi.torch import ECA
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), ECA(8))

def nnx_net():
    from flax import nnx
    from eca_multi.flax.nnx import ECA
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs), ECA(8, rngs=rngs))

def linen():
    import jax
    from flax import linen as nn
    from eca_multi.flax.linen import ECA
    net, images = nn.Sequential([nn.Conv(8, (3, 3)), ECA()]), x.transpose(0, 2, 3, 1)
    return net, net.init(jax.random.key(0), images), images, y

def torch():
    return torch_net(), x, y

def nnx():
    return nnx_net(), x.transpose(0, 2, 3, 1), y

def keras():
    import keras
    from eca_multi.keras import ECA
    layers = [keras.Input((9, 9, 3)), keras.layers.Conv2D(8, 3), ECA(name="eca")]
    return keras.Sequential(layers), x.transpose(0, 2, 3, 1), y

def too_few_labels():
    return torch_net(), x, y[:3]

def narrow():
    return torch_net(), x[:, :2]

def too_many():
    return torch_net(), x, y, 3

def without():
    import torch
    return torch.nn.ReLU(), x

empty = lambda: ()
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "nets_for_the_gates.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record().save(tmp_path / "gates.npz")
    return tmp_path / "gates.npz"


def gates(*args):
    return CliRunner().invoke(app, ["gates", *map(str, args)])


def test_it_prints_the_record_of_a_file(saved):
    done = gates(saved)
    assert done.exit_code == 0, done.output
    assert done.stdout.rstrip() == str(load_gates(saved))


def test_it_writes_what_it_is_asked_for(saved, tmp_path):
    options = ("--out", tmp_path / "out", "--html", tmp_path / "a.html", "--json", tmp_path / "a.json")
    done = gates(saved, *options, "--class", "cat,dog")
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out").iterdir())) == 10
    page = (tmp_path / "a.html").read_text()
    assert "3 classes, 2 of them shown" in page
    assert [one["path"] for one in json.loads((tmp_path / "a.json").read_text())["layers"]] == list(record())


PATHS = {"torch": "2", "nnx": "layers.2", "linen": "layers_1", "keras": "eca"}
MARKS = {"nnx": [pytest.mark.slow], "keras": [pytest.mark.keras]}
NETS = [pytest.param(name, marks=MARKS.get(name, [])) for name in PATHS]


@pytest.mark.parametrize("net", NETS)
def test_it_records_a_network(file, tmp_path, net):
    done = gates(f"{file}:{net}", "--batch", 4, "--save", tmp_path / "new.npz")
    assert done.exit_code == 0, done.output
    (layer,) = load_gates(tmp_path / "new.npz").values()
    assert (layer.path, layer.count) == (PATHS[net], 10)
    assert {label: one.count for label, one in layer.classes.items()} == {"cat": 5, "dog": 5}


def test_data_come_from_a_file(file, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.ones((7, 3, 5, 5), np.float32), y=np.arange(7) % 2)
    done = gates(f"{file}:torch_net", "--data", "data.npz", "--save", "new.npz")
    assert done.exit_code == 0, done.output
    (layer,) = load_gates(tmp_path / "new.npz").values()
    assert (layer.count, sorted(layer.classes)) == (7, [0, 1])


def test_the_network_runs_as_in_evaluation(file, tmp_path):
    """A BatchNorm in training would make the gates depend on the size of the batches."""
    means = []
    for batch in (10, 3):
        assert gates(f"{file}:torch", "--batch", batch, "--save", "new.npz").exit_code == 0
        means.append(load_gates(tmp_path / "new.npz")["2"].mean)
    np.testing.assert_allclose(*means, rtol=1e-6)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere.npz"], "No such file or directory"),
        (["FILE"], "path must be a record of gates"),
        (["FILE:torch_net"], "MODULE:FACTORY must be beside inputs for the network. Received: a network alone."),
        (["FILE:too_few_labels"], "labels must be as many as inputs. Received: 3 labels for 10 inputs."),
        (["FILE:narrow"], "The network must run on the inputs. It raised RuntimeError"),
        (["FILE:too_many"], "MODULE:FACTORY must be a function that returns a network or (network, inputs, labels)."),
        (["FILE:without"], "The network must have ECA. Received: a ReLU without it."),
        (["FILE:empty"], "must return a network of torch, Keras or Flax. Received: an empty tuple"),
        (["FILE:torch", "--data", "nowhere.npz"], "No such file or directory"),
        (["FILE:torch", "--data", "FILE"], "--data must be an .npz file with the inputs x, and labels y."),
        (["SAVED", "--data", "x.npz"], "--data must be left out beside a file of gates. Received: --data x.npz."),
        (["SAVED", "--class", "bird"], "classes must be labels of the record. Received: 'bird'."),
    ],
)
def test_an_error_is_one_line_and_status_2(file, saved, args, message):
    done = gates(*[arg.replace("FILE", str(file)).replace("SAVED", str(saved)) for arg in args])
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("option", ["--html", "--json", "--save", "--out"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(saved, option, monkeypatch):
    monkeypatch.setattr("eca_multi.cli.gates.load_gates", lambda path: pytest.fail("it was read"))
    done = gates(saved, option, "nowhere/file")
    assert done.exit_code == 2
    assert "existing" in done.stderr
