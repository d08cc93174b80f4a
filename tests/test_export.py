"""Exported networks: written by every route, run by their runtimes alone, and equal to the float64 reference."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from export_network import images, torch_network
from export_routes import ROUTES

from eca_multi.parity import ParityError, assert_close
from eca_multi.parity.budget import SAFETY, U_ACC, rounding
from eca_multi.parity.engines._noise import budget

TESTS = Path(__file__).parent

# None of them is the size that any route was traced at; H and W differ, and one is odd.
SHAPES = ((3, 27, 22, 3), (1, 18, 31, 3))
TRACED = (2, 20, 24, 3)  # of routes without free extents

# What a runtime loads of the five frameworks; TensorFlow loads Keras, and Keras what it finds of JAX.
FRAMEWORKS = {"torch": ["torch"], "aoti": ["torch"], "tensorflow": ["jax", "keras", "tensorflow"], "jax": ["jax"]}


def script(name, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, TESTS / name, *arguments]
    done = subprocess.run(command, timeout=300, text=True, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that returns a maker's folder and results; a maker runs once, when its first route is tested."""

    @cache
    def run(maker):
        folder = tmp_path_factory.mktemp(maker)
        script("export_routes.py", maker, folder)
        return folder, json.loads((folder / "results.json").read_text())

    return run


@cache
def reference(shape, flipped=None):
    """Return the network's output in float64, and the largest error that float32 may have."""
    network, x = torch_network(flipped).double(), torch.from_numpy(images(*shape)).double().permute(0, 3, 1, 2)
    levels = rounding("float32")
    with torch.no_grad():
        values, errors = budget(lambda: {"y": network(x)}, levels.u, U_ACC, levels.tiny)
    return values["y"], SAFETY["stochastic"] * errors["y"]


def run(route, artefact, folder):
    """Return {shape: output of an artefact}, from a process of its own."""
    shapes = {str(i): shape for i, shape in enumerate(SHAPES if route.dynamic else [TRACED])}
    inputs = {i: images(*shape) for i, shape in shapes.items()}
    if route.channels_first:
        inputs = {i: x.transpose(0, 3, 1, 2).copy() for i, x in inputs.items()}
    np.savez(folder / "x.npz", **inputs)
    said = script("run_artefact.py", route.runtime, artefact, folder / "x.npz", folder / "y.npz")
    assert json.loads(said.splitlines()[-1]) == FRAMEWORKS.get(route.runtime, [])
    with np.load(folder / "y.npz") as outputs:
        return {shape: outputs[i] for i, shape in shapes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTES)
def test_artefact_agrees_with_the_reference(name, made, tmp_path):
    route = ROUTES[name]
    if route.missing:
        pytest.skip(f"not installed: {', '.join(route.missing)}; pip install 'eca-multi[export]'")
    folder, results = made(route.maker)
    assert results[name]["raised"] is None
    for shape, y in run(route, folder / route.file, tmp_path).items():
        expected, limit = reference(shape)
        print(f"{name} {shape}: {np.max(np.abs(y - expected) / limit):.2f} of the budget")
        assert_close(y, expected, budget=limit)
