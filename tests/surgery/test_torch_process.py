"""Networks with ECA in another process: pickled whole, rebuilt from a file, wrapped by DDP and FSDP2, saved by DCP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from eca_multi.torch import eca_parameters, insert_eca, installed_eca, remove_eca
from tests.support.networks_torch import randomised, resnet
from tests.support.surgery_process_torch import CASES

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1].joinpath("support", "surgery_process_torch.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process")
    net = insert_eca(randomised(resnet()))
    x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = remove_eca(insert_eca(randomised(resnet())))(x)
        for kernel in eca_parameters(net):
            nn.init.normal_(kernel)
        y = net(x)
    assert (plain - y).abs().max() > 1e-2  # a gate that is lost on the way would be seen
    torch.save(net, folder / "whole.pt")
    torch.save(net.state_dict(), folder / "state.pt")
    installed_eca(net).save(folder / "plan.json")
    torch.save(x, folder / "x.pt")
    torch.save(y, folder / "y.pt")
    done = subprocess.run([sys.executable, SCRIPT, folder], timeout=300, text=True, capture_output=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_eca_survives(case, results):
    assert isinstance(results[case], float), results[case]
    assert results[case] < 1e-4
