"""The Flax examples: they learn, and hold what they say."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def classifier(kind):
    """The example's network for 3 channels, as a function."""
    example = load(f"conv1d_classifier_{kind}")
    if kind == "nnx":
        return example.Conv1dClassifier(rngs=nnx.Rngs(0))
    model = example.Conv1dClassifier()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 3)))
    return lambda x: model.apply(variables, x)


both = pytest.mark.parametrize("kind", [pytest.param("linen", marks=pytest.mark.slow), "nnx"])


@pytest.mark.slow
@both
def test_the_classifier_takes_any_length(kind):
    model = classifier(kind)
    for length in (1, 8, 101):
        assert model(jnp.zeros((2, length, 3))).shape == (2, 10)


@pytest.mark.slow
@both
def test_one_sample_does_not_change_another(kind):
    """What the page that the project grew out of got wrong: ECA mixes channels, never samples."""
    model = classifier(kind)
    x = np.random.default_rng(0).normal(size=(2, 20, 3)).astype("float32")
    other = np.stack([x[0], x[1] + 1])
    assert np.array_equal(model(x)[0], model(other)[0])
    assert not np.array_equal(model(x)[1], model(other)[1])


@both
@pytest.mark.slow
def test_the_script_learns_and_prints_its_accuracy(kind, capsys):
    load(f"conv1d_classifier_{kind}").main()
    said = capsys.readouterr().out
    assert float(said.split("unseen digits: ")[1].split()[0]) > 0.8
    assert "(360, 24, 8) -> (360, 10)" in said
