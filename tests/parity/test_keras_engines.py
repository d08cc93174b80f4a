"""ECA on the devices of Keras: keras.distribution on JAX, MirroredStrategy on TensorFlow, each backend in its process.

Each trains the same network for twenty steps. Losses and weights must be those of one device, by as much as rounding
noise carries that one's own run.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eca_multi.parity.budget.safety import SAFETY

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1].joinpath("support", "engines_keras.py")
RIGHT = [
    ("jax", "data_parallel"),
    ("jax", "model_parallel"),
    ("jax", "model_parallel_with_whole_batches"),
    ("tensorflow", "mirrored"),
]
WRONG = [("jax", "model_parallel_by_convolution"), ("tensorflow", "one_replica_alone")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{backend: {run: {name: array}}}, from one run of the script for each backend."""
    found = {}
    for backend in ("jax", "tensorflow"):
        results = tmp_path_factory.mktemp("engines") / "results.npz"
        env = {**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, SCRIPT, results], timeout=240, text=True, capture_output=True, env=env, check=False
        )
        assert done.returncode == 0, done.stderr
        found[backend] = {}
        for key, array in np.load(results).items():
            run, _, name = key.partition("/")
            found[backend].setdefault(run, {})[name] = array.astype(np.float64)
    return found


def excess(runs, engine):
    """The largest error over its budget, which is one number for each tensor."""
    one, found = runs["one"], runs[engine]
    assert found.keys() == one.keys()
    noisy = [named for run, named in runs.items() if run.startswith("noise")]
    ratios = []
    for name, expected in one.items():
        spread = max(np.abs(run[name] - expected).max() for run in noisy)
        ratios.append(np.abs(found[name] - expected).max() / (SAFETY["stochastic"] * spread))
    return max(ratios)


@pytest.mark.parametrize(("backend", "engine"), RIGHT)
def test_training_is_that_of_one_device(backend, engine, runs):
    assert excess(runs[backend], engine) <= 1


@pytest.mark.parametrize(("backend", "engine"), WRONG)
def test_a_wrong_engine_is_seen(backend, engine, runs):
    assert excess(runs[backend], engine) > 10


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_every_weight_is_judged(backend, runs):
    """One that noise does not reach would have no budget, and one that training does not move would agree anywhere."""
    one = runs[backend]["one"]
    assert len(one) == 9
    for name, expected in one.items():
        spread = [np.abs(run[name] - expected).max() for key, run in runs[backend].items() if key.startswith("noise")]
        assert len(spread) == 8
        assert 0 < max(spread) < 1e-3 * np.abs(expected).max(), name
