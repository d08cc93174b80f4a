"""ECA on sharded tensors: torch DTensor in two gloo processes on the CPU, batch, channels and space sharded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.distributed_torch import CASES

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1].joinpath("support", "distributed_torch.py")

# float64 rounds at 1e-16 and the longest sum has 210 terms of size 1; an unreduced shard is off by 0.1 or more.
ROUNDING = 1e-12


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Errors by case and implementation, from one run of the script; a file is the rendezvous, so no port is needed."""
    folder = tmp_path_factory.mktemp("distributed")
    command = [sys.executable, SCRIPT, folder / "rendezvous", folder / "results.json"]
    done = subprocess.run(
        command, timeout=120, text=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_sharded_eca_agrees_with_the_oracle(case, results):
    found = results[case]["ECA"]
    assert "raised" not in found, found["raised"]
    shape, axis, *_ = CASES[case]
    if shape[axis] > 1:  # DTensor's reshape forgets the sharding of an axis of size 1
        before, after = found["placements"]
        assert before == after  # y lies as x does: nothing of x's size was gathered
    for name in ("y, no grad", "y", "dx", "dw", "dresidual"):
        assert found.get(name, 0 if name == "dresidual" else None) < ROUNDING, name


def test_conv1d_is_right_for_batch_shards(results):
    """The control below fails for what DTensor does with conv1d, not for a slip in it."""
    found = results["batch"]["conv1d"]
    assert max(found[name] for name in ("y, no grad", "y", "dx", "dw")) < ROUNDING


@pytest.mark.parametrize("case", ["channel", "height"])
def test_conv1d_is_wrong_or_raises_for_other_shards(case, results):
    found = results[case]["conv1d"]
    assert "raised" in found or max(found[name] for name in ("y", "dx", "dw")) > 0.1


def test_conv1d_is_silently_wrong_for_spatial_shards_without_grad(results):
    assert results["height"]["conv1d"]["y, no grad"] > 0.1
