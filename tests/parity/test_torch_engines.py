"""ECA under the engines that people train on: DDP, FSDP2, tensor parallelism and pipelines, in two gloo processes.

Each trains the same network for twenty steps. Losses and weights must be those of one process, as far as float32 can
tell: the budget is how far rounding noise carries the one process's run in float64, by the harness's own noise.
"""

import copy
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eca_multi.parity.budget.noise import RoundingNoise
from eca_multi.parity.budget.safety import SAFETY
from eca_multi.parity.define.dtypes import U_ACC, rounding
from eca_multi.parity.engines._private_torch import PRIVATE_NAMES
from tests.support import engines_torch as engines

pytestmark = pytest.mark.slow
SCRIPT = Path(engines.__file__)
RIGHT = ("ddp", "fsdp", "tensor_parallel", "two_stages", "two_traced_stages")
WRONG = ("ddp_without_averages", "tensor_parallel_without_neighbours", "two_stages_with_summed_gradients")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Losses and weights by engine, from one run of the script; a file is the rendezvous, so no port is needed."""
    folder = tmp_path_factory.mktemp("engines")
    command = [sys.executable, SCRIPT, folder / "rendezvous", folder / "results.pt"]
    done = subprocess.run(
        command, timeout=240, text=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "results.pt")


@pytest.fixture(scope="module")
def one_process():
    """{name: (what one process ends with in float64, how far rounding to float32 may carry it)}."""
    start = engines.make().double()

    def evaluate():
        model = copy.deepcopy(start)
        losses = engines.train(model, lambda tensor: tensor.double())
        return {"loss": losses, **engines.weights(model)}

    float32 = rounding("float32")
    noise = RoundingNoise(float32.u, U_ACC, float32.tiny, torch.Generator().manual_seed(0))
    exact, errors = noise.budget(evaluate)
    assert not noise.unknown_ops
    return {name: (exact[name], SAFETY["stochastic"] * errors[name]) for name in exact}


def excess(found, one_process):
    """The largest error over its budget; infinite where a run is not even finite."""
    assert "raised" not in found, found["raised"]
    assert found.keys() == one_process.keys()
    ratios = [np.abs(found[name].double().numpy() - exact) / bound for name, (exact, bound) in one_process.items()]
    return max(float(np.nan_to_num(ratio, nan=np.inf).max()) for ratio in ratios)


@pytest.mark.parametrize("engine", RIGHT)
def test_training_is_that_of_one_process(engine, results, one_process):
    assert excess(results[engine], one_process) <= 1


@pytest.mark.parametrize("engine", WRONG)
def test_a_wrong_engine_is_seen(engine, results, one_process):
    """By far: the budget is no net with wide meshes."""
    assert excess(results[engine], one_process) > 1000


def test_mixed_precision_is_that_of_one_process_to_the_bit(results):
    """A sum of two terms has one order, and halving is exact: nothing may differ."""
    expected, found = engines.in_halves(torch.bfloat16), results["fsdp_mixed"]
    assert "raised" not in found, found["raised"]
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_another_precision_is_seen(results):
    """The control of the test above: the same run in float32 has other weights in nearly every element."""
    other, found = engines.in_halves(torch.float32), results["fsdp_mixed"]
    assert not any(torch.equal(found[name], value) for name, value in other.items())


def test_the_training_moves_every_kernel(one_process):
    """Weights that stayed would agree on any engine."""
    start = engines.make().double().state_dict()
    for name, (exact, bound) in one_process.items():
        if "conv" in name:
            assert np.abs(start[name].numpy() - exact).max() > 100 * bound.max(), name


# --- private names of PyTorch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_the_installed_torch_has_the_private_name(name):
    pkgutil.resolve_name(name)
    assert len(PRIVATE_NAMES[name].split()) >= 8  # the reason, and the public way that was tried


def test_a_private_name_that_is_gone_is_named():
    with pytest.raises(AttributeError, match="_gone"):
        pkgutil.resolve_name("torch._C._gone")
