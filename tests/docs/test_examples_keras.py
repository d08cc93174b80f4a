"""The Keras examples: they learn, and hold what they say, on the backend of the process."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

pytestmark = pytest.mark.keras

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example():
    return load("conv1d_classifier_keras")


@pytest.fixture
def seeded():
    """The same random numbers in every run."""
    keras.utils.set_random_seed(0)


@pytest.mark.slow_on("jax")
def test_the_classifier_takes_any_length(example, rng):
    model = example.conv1d_classifier()
    for length in (1, 101):
        assert model(rng.normal(size=(2, length, 3)).astype("float32")).shape == (2, 10)


def test_one_sample_does_not_change_another(example, rng, seeded):
    """What the page that the project grew out of got wrong: ECA mixes channels, never samples."""
    model = example.conv1d_classifier()
    x = rng.normal(size=(2, 20, 3)).astype("float32")
    other = np.stack([x[0], x[1] + 1])
    first, second = (ops.convert_to_numpy(model(batch)) for batch in (x, other))
    assert np.array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])


@pytest.mark.slow
def test_the_classifier_learns(example, seeded):
    (x, y), (test_x, test_y) = example.digits()
    model = example.conv1d_classifier(channels=8)
    before = example.accuracy(model, test_x, test_y)
    example.train(model, x, y, epochs=3)
    assert example.accuracy(model, test_x, test_y) > 0.6 > 0.3 > before


@pytest.mark.slow
def test_the_script_prints_its_accuracy(example, capsys):
    example.main()
    said = capsys.readouterr().out
    assert float(said.split("unseen digits: ")[1].split()[0]) > 0.8
    assert "(360, 24, 8) -> (360, 10)" in said
