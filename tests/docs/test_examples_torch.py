"""The torch examples: they learn, and hold what they say."""

import importlib.util
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example():
    return load("conv1d_classifier_torch")


@pytest.mark.parametrize("length", [1, 2, 8, 101])
def test_the_classifier_takes_any_length(example, length):
    model = example.Conv1dClassifier()
    assert model(torch.randn(2, 3, length)).shape == (2, 10)


def test_one_sample_does_not_change_another(example):
    """What the page that the project grew out of got wrong: ECA mixes channels, never samples."""
    torch.manual_seed(0)
    model = example.Conv1dClassifier()
    x = torch.randn(2, 3, 20)
    other = torch.stack([x[0], x[1] + 1])
    assert torch.equal(model(x)[0], model(other)[0])
    assert not torch.equal(model(x)[1], model(other)[1])


@pytest.mark.slow
def test_the_classifier_learns(example):
    torch.manual_seed(0)
    (x, y), (test_x, test_y) = example.digits()
    model = example.Conv1dClassifier(channels=8)
    before = example.accuracy(model, test_x, test_y)
    example.train(model, x, y, epochs=3)
    assert example.accuracy(model, test_x, test_y) > 0.6 > 0.3 > before


@pytest.mark.slow
def test_the_script_prints_its_accuracy(example, capsys):
    example.main()
    said = capsys.readouterr().out
    assert float(said.split("unseen digits: ")[1].split()[0]) > 0.8
    assert "(360, 8, 24) -> (360, 10)" in said
