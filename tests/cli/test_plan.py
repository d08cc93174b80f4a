"""`eca-multi plan`: the dry run from the command line."""

import sys

import pytest
from typer.testing import CliRunner

from eca_multi._named import package_of
from eca_multi.cli.main import app
from eca_multi.surgery.plan import ECAPlan

FILE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x):
        return x + self.bn(self.conv(x))

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), Block(), Block())

ready = net()

def broken():
    raise RuntimeError("no\\nweights")

def pair():
    return net(), 3

number = lambda: 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "nets_for_the_plan.py"
    path.write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return path


def plan(*args):
    return CliRunner().invoke(app, ["plan", *map(str, args)])


@pytest.mark.parametrize("target", ["nets_for_the_plan.py:net", "nets_for_the_plan:net", "nets_for_the_plan.py:ready"])
def test_it_prints_the_plan(file, target, monkeypatch):
    done = plan(target)
    monkeypatch.delitem(sys.modules, "nets_for_the_plan", raising=False)  # the next test has its own
    assert done.exit_code == 0, done.output
    assert "ECA in Sequential (torch), where='residual'" in done.output
    assert "{1-2}.bn  x2  BatchNorm2d         8" in done.output
    assert "2 ECAs, 6 new parameters" in done.output


def test_its_options_are_those_of_plan_eca(file, tmp_path):
    saved = tmp_path / "plan.json"
    options = ("--include", r"[01](\..*)?", "--exclude", "0", "--kernel-size", 3, "--gate", "sigmoid")
    done = plan(f"{file}:net", "--where", "conv", *options, "--init", "uniform", "--min-channels", 8, "--json", saved)
    assert done.exit_code == 0, done.output
    made = ECAPlan.load(saved)
    assert (made.paths, made.gate, made.init) == (("1.conv",), "sigmoid", "uniform")
    assert str(made) == done.output.rstrip()
    assert "outputs WILL CHANGE" in done.output


def test_axes_are_named_with_commas_between(file, tmp_path):
    saved = tmp_path / "plan.json"
    options = ("--pool-axes", "2,3", "--causal-axis", 2, "--json", saved)
    assert plan(f"{file}:net", *options).exit_code == 0
    assert {(entry.pool_axes, entry.causal_axis) for entry in ECAPlan.load(saved).entries} == {((2, 3), 2)}
    assert "--pool-axes must be axes with commas between" in plan(f"{file}:net", "--pool-axes", "2;3").output


def test_an_input_shape_tells_calls(file, tmp_path):
    saved = tmp_path / "plan.json"
    assert plan(f"{file}:net", "--input-shape", "2,3,6,6", "--json", saved).exit_code == 0
    assert [entry.calls for entry in ECAPlan.load(saved).entries] == [1, 1]


def test_paths_are_taken_as_a_list(file):
    assert "2 ECAs" in plan(f"{file}:net", "--where", "1.conv,2.bn").output
    assert "1 ECA," in plan(f"{file}:net", "--where", "0,").output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nets.py"], "must be module:name or file.py:name"),
        (["no_such_module:net"], "no_such_module must import. It raised ModuleNotFoundError"),
        (["nowhere.py:net"], "nowhere.py must import. It raised FileNotFoundError"),
        (["FILE:nett"], "has no 'nett'. It has: Block, net, ready, broken, pair, number."),
        (["FILE:broken"], "It raised RuntimeError: no weights"),
        (["FILE:number"], "must return a network of torch, Keras or Flax. Received: int"),
        (["FILE:pair"], "must return the model alone for eca_multi.torch. Received: 2 values"),
        (["FILE:net", "--where", "residul"], "Did you mean 'residual'?"),
        (["FILE:net", "--where", "1.nothing"], "where must match a site"),
        (["FILE:net", "--include", "["], "must be a valid regular expression"),
        (["FILE:net", "--kernel-size", "4"], "kernel_size must be"),
        (["FILE:net", "--gate", "sigmoid"], "init"),
        (["FILE:net", "--input-shape", "1,3,x"], "--input-shape must be numbers"),
        (["FILE:net", "--input-shape", "1,4,8,8"], "model must run on example_inputs"),
        (["FILE:net", "--json", "nowhere/plan.json"], "No such file or directory"),
    ],
)
def test_an_error_is_one_line_and_status_2(file, args, message):
    done = plan(*[arg.replace("FILE", str(file)) for arg in args])
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_the_framework_is_that_of_the_classes():
    def made(module):
        return type("Model", (type("Base", (), {"__module__": module}),), {"__module__": "mine"})()

    homes = {
        "torch.nn.modules.module": "eca_multi.torch",
        "keras.src.models.model": "eca_multi.keras",
        "flax.nnx.module": "eca_multi.flax.nnx",
        "flax.linen.module": "eca_multi.flax.linen",
        "torchvision.models": None,
    }
    assert {module: package_of(made(module)) for module in homes} == homes
    both = type("Layer", (type("Base", (made("torch.nn").__class__,), {"__module__": "keras.src"}),), {})
    assert package_of(both()) == "eca_multi.keras"


LINEN = """
import jax, jax.numpy as jnp
from flax import linen as nn

class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.GroupNorm(num_groups=2)(nn.Conv(8, (3, 3))(x))

def net():
    x = jnp.zeros((1, 8, 8, 8))
    return Block(), Block().init(jax.random.key(0), x), x

def module():
    return Block()
"""


def test_linen_comes_with_its_variables(tmp_path):
    file = tmp_path / "linen_nets.py"
    file.write_text(LINEN)
    done = plan(f"{file}:net")
    assert done.exit_code == 0, done.output
    assert "GroupNorm_0" in done.output
    done = plan(f"{file}:module")
    assert done.exit_code == 2
    assert "must return (module, variables, example_inputs)" in done.stderr
