"""Torch networks with ECA under other tools, and trained on real sequences."""

import copy
import pickle

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from eca_multi.torch import (
    eca_parameters,
    insert_eca,
    remove_eca,
)
from tests.support.networks_torch import (
    classifier,
    randomised,
    resnet,
)
from tests.support.surgery_torch import image


@pytest.fixture(scope="module")
def gated():
    """A network with ECA whose kernels are trained, and what it returns."""
    net = insert_eca(randomised(resnet()))
    with torch.no_grad():
        for kernel in eca_parameters(net):
            nn.init.normal_(kernel)
        return net, net(image())


def scripted(net):
    return torch.jit.script(net)


def fused(net):
    from torch.fx.experimental.optimization import fuse

    return fuse(net)


def exported(net):
    return torch.export.export(net, (image(),)).module()


def synced(net):
    return nn.SyncBatchNorm.convert_sync_batchnorm(net)


def averaged(net):
    return torch.optim.swa_utils.AveragedModel(net).module


def assigned(net):
    with torch.device("meta"):
        fresh = insert_eca(resnet())
    fresh.load_state_dict(net.state_dict(), assign=True)
    return fresh.eval()


def checkpointed(net):
    return lambda x: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)


def functional(net):
    state = dict(net.state_dict())
    return lambda x: torch.func.functional_call(insert_eca(resnet()).eval(), state, (x,))


TOOLS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "channels_last": lambda net: net.to(memory_format=torch.channels_last),
    "symbolic_trace": torch.fx.symbolic_trace,
    "fuse": fused,
    "export": exported,
    "compile": lambda net: torch.compile(net, fullgraph=True, backend="aot_eager"),
    "jit.trace": lambda net: torch.jit.trace(net, image()),
    "jit.script": scripted,
    "SyncBatchNorm": synced,
    "AveragedModel": averaged,
    "meta and assign": assigned,
    "activation checkpointing": checkpointed,
    "functional_call": functional,
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # shapes are checked, and fixed in the trace
@pytest.mark.parametrize("tool", TOOLS)
def test_the_gate_survives(tool, gated):
    net, expected = gated
    torch.testing.assert_close(TOOLS[tool](copy.deepcopy(net))(image()), expected, rtol=1e-5, atol=1e-5)


def test_a_gate_that_is_lost_would_be_seen(gated):
    net, expected = gated
    assert (remove_eca(copy.deepcopy(net))(image()) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("with_eca", [False, True])
def test_the_two_layer_classifier_learns_digits(with_eca):
    digits = load_digits()
    x = (
        torch.tensor(digits.data[:600], dtype=torch.float32).reshape(-1, 8, 8) / 16
    )  # rows as steps, columns as channels
    y = torch.tensor(digits.target[:600])
    torch.manual_seed(0)
    net = classifier()
    if with_eca:
        before = net(x[:4])
        insert_eca(net, "conv", example_inputs=x[:4])
        assert torch.equal(net(x[:4]), before)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    for step in range(40):
        pick = torch.arange(step * 50, step * 50 + 50) % 600
        loss = nn.functional.cross_entropy(net(x[pick]), y[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    if with_eca:
        assert all(kernel.abs().max() > 1e-3 for kernel in eca_parameters(net))
    assert net(torch.randn(2, 8, 33)).shape == (2, 10)
