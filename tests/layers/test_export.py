"""Exported networks: written by every route, run by their runtimes alone, and equal to the float64 reference."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from eca_multi.parity import ParityError, assert_close
from eca_multi.parity.budget.noise import budget
from eca_multi.parity.budget.safety import SAFETY
from eca_multi.parity.define.dtypes import U_ACC, rounding
from tests.support.export_network import BLOCKS, images, torch_network
from tests.support.export_routes import FAILURES, ROUTES, TRACED, Route, torch_export
from tests.support.run_artefact import RUNTIMES

SUPPORT = Path(__file__).parents[1] / "support"

# Nothing was traced at these; H and W differ, and one is odd.
SHAPES = ((3, 27, 22, 3), (1, 18, 31, 3))

# What a runtime loads of the five frameworks; TensorFlow loads Keras, and Keras what it finds of JAX.
FRAMEWORKS = {"torch": ["torch"], "tensorflow": ["jax", "keras", "tensorflow"], "jax": ["jax"]}


def script(name, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, SUPPORT / name, *arguments]
    done = subprocess.run(command, timeout=600, text=True, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that returns a backend's folder and results; it makes them once, when the first is asked for."""

    @cache
    def make(backend):
        folder = tmp_path_factory.mktemp(backend)
        script("export_routes.py", backend, folder)
        return folder, json.loads((folder / "results.json").read_text())

    return make


@cache
def reference(shape, flipped=None):
    """Return the network's output in float64, and the largest error that float32 may have."""
    network, x = torch_network(flipped).double(), torch.from_numpy(images(*shape)).double().permute(0, 3, 1, 2)
    levels = rounding("float32")
    with torch.no_grad():
        values, errors = budget(lambda: {"y": network(x)}, levels.u, U_ACC, levels.tiny)
    return values["y"], SAFETY["stochastic"] * errors["y"]


@pytest.fixture(scope="module")
def ran(made):
    """A function that returns {shape: output} of a route; a runtime runs all that a backend made in one process."""

    @cache
    def run(backend, runtime):
        folder, results = made(backend)
        here = {name: route for name, route in ROUTES.items() if (route.backend, route.runtime) == (backend, runtime)}
        files = {name: f"{folder}/{route.file}" for name, route in here.items() if results.get(name, "missing") is None}
        for name, file in files.items():
            axes = (0, 3, 1, 2) if ROUTES[name].channels_first else (0, 1, 2, 3)
            inputs = {str(i): images(*shape).transpose(axes).copy() for i, shape in enumerate(shapes_of(name))}
            np.savez(f"{file}.x.npz", **inputs)
        said = script("run_artefact.py", runtime, *files.values())
        assert json.loads(said.splitlines()[-1]) == FRAMEWORKS.get(runtime, [])
        return files

    def outputs(name):
        skip_without(ROUTES[name].missing)
        _, results = made(ROUTES[name].backend)
        assert results[name] is None
        with np.load(run(ROUTES[name].backend, ROUTES[name].runtime)[name] + ".y.npz") as found:
            return {shape: found[str(i)] for i, shape in enumerate(shapes_of(name))}

    return outputs


def shapes_of(name):
    return SHAPES if ROUTES[name].dynamic else [TRACED]


def skip_without(missing):
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (see docs/production.md)")


def check(y, shape):
    """Compare an output with the reference; that of a network with one ECA's kernel turned around must be told."""
    expected, limit = reference(shape)
    assert_close(y, expected, budget=limit)
    for block in range(len(BLOCKS)):
        with pytest.raises(ParityError, match="EXCEEDS_BUDGET"):
            assert_close(y, reference(shape, flipped=block)[0], budget=limit)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ROUTES if name != "wrong"])
def test_artefact_agrees_with_the_reference(name, ran):
    for shape, y in ran(name).items():
        check(y, shape)


@pytest.mark.slow
def test_the_artefact_of_a_wrong_network_is_told(ran):
    for shape, y in ran("wrong").items():
        with pytest.raises(ParityError, match="EXCEEDS_BUDGET"):
            check(y, shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_for_every_model(name, made):
    """Once it does not fail any more, it belongs to the routes, and the page on production must say so."""
    failure = FAILURES[name]
    skip_without(failure.missing)
    _, results = made(failure.backend)
    assert results[name].keys() == {"network", "plain"}
    for kind, raised in results[name].items():
        assert failure.message in (raised or ""), kind


@pytest.mark.slow
def test_the_reference_is_right_about_its_own_network():
    """The bare network in float32 passes, and each ECA's kernel matters by far more than rounding."""
    for shape in SHAPES:
        x = torch.from_numpy(images(*shape)).permute(0, 3, 1, 2)
        with torch.no_grad():
            check(torch_network()(x).numpy(), shape)


def test_an_artefact_runs_without_this_package():
    """A runtime that needed it would be found."""
    code = "from tests.support import run_artefact as r\n"
    code += "r.RUNTIMES['ours'] = lambda path: __import__('eca_multi'); r.main('ours', 'a')"
    done = subprocess.run([sys.executable, "-c", code], cwd=SUPPORT, text=True, capture_output=True)
    assert "import of eca_multi halted" in done.stderr


def test_the_page_lists_every_route_and_failure():
    page = (SUPPORT.parents[1] / "docs/production.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(.*?)`", row)]
    assert sorted(listed) == sorted((ROUTES.keys() - {"wrong"}) | FAILURES.keys())


def test_every_runtime_is_known():
    assert {route.runtime for route in ROUTES.values()} == set(RUNTIMES)


def test_a_missing_package_is_named():
    route = Route("torch", "onnxruntime", "a.onnx", torch_export, needs=("onnxruntime_of_nobody",))
    assert route.missing == ["onnxruntime_of_nobody"]
