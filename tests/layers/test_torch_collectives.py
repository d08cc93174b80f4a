"""What ECA on a DTensor asks of a process group of eight: the means and their gradients, never a feature map.

A process of its own is rank 0 of a group that sends nothing (`dtensor` in benchmarks/communication.py).
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHAPE, DEVICES = (32, 28, 28, 256), 8
N, C = SHAPE[0], SHAPE[-1]

CODE = """
import json, sys
from communication import dtensor
import eca_multi.torch._tensor_lines as lines
if CONTROL:
    lines.gathered = lambda means, axis=1: means
layouts = ("batch", "spatial", "channel")
found = {name: [dict(t.payload) for t in dtensor(list(SHAPE), name, DEVICES)] for name in layouts}
print("PAYLOAD" + json.dumps(found))
"""


@pytest.fixture(scope="module", params=[False, True], ids=["ours", "control"])
def payload(request):
    code = f"SHAPE, DEVICES, CONTROL = {SHAPE}, {DEVICES}, {request.param}\n{CODE}"
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return request.param, json.loads(done.stdout.partition("PAYLOAD")[2])


def test_nothing_of_a_feature_maps_size_is_sent(payload):
    is_control, found = payload
    shard = 4 * math.prod(SHAPE) // DEVICES
    sent = {layout: sum(both.values()) for layout, (_, both) in found.items()}
    assert sent["batch"] < 4 * N  # dw alone
    assert sent["spatial"] <= 4 * (2 * N * C + N)  # the means, and the gates' gradient
    # Left to itself DTensor spreads the samples, and dx goes with them.
    assert (sent["channel"] >= shard) is is_control
