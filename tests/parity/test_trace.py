"""What a PyTorch reference tells of itself: its operations between the taps, and the order of its gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from eca_multi.parity import NumpyAdapter, TorchAdapter, tap
from eca_multi.parity.budget.numpy_reference import NumpyReference
from eca_multi.parity.budget.torch_reference import TorchReference
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import parse
from eca_multi.parity.engines.base import Unsupported
from eca_multi.parity.engines.torch import TorchEngine
from eca_multi.parity.execute import worker
from eca_multi.parity.execute.messages import Do, Request
from eca_multi.parity.explain.hypotheses.reference import explain
from eca_multi.parity.explain.localize import in_order
from eca_multi.parity.explain.rerun import with_results


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.linear, self.norm2 = nn.LayerNorm(6), nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x):
        h = tap("first", self.norm1(x))
        h = tap("middle", torch.sigmoid(self.linear(h)))
        return self.norm2(h * h.mean(-1, keepdim=True))


class Right(TorchAdapter):
    def build(self, config):
        return Block()


class WrongGradient(nn.LayerNorm):
    """The gradient of the bias is 1 % too large."""

    def forward(self, x):
        bias = 1.01 * self.bias - 0.01 * self.bias.detach()
        return nn.functional.layer_norm(x, self.normalized_shape, self.weight, bias, self.eps)


class Wrong(Right):
    """A fault in norm2's bias, backwards alone."""

    def build(self, config):
        block = Block()
        block.norm2 = WrongGradient(6)
        return block


class Transposed(Right):
    def build(self, config):
        block = Block()
        block.linear.forward = lambda x: x @ block.linear.weight + block.linear.bias
        return block


@pytest.fixture
def job():
    """The stages are declared in another order than that of their computation."""
    rng = np.random.default_rng(0)
    shapes = {"weight": (6,), "bias": (6,)}
    weights = {f"{norm}.{n}": rng.normal(size=s) for norm in ("norm1", "norm2") for n, s in shapes.items()}
    weights |= {"linear.weight": rng.normal(size=(6, 6)), "linear.bias": rng.normal(size=6)}
    return Job(
        *("case", "float32", {}, {"x": ("N", "C"), "y": ("N", "C")}, ("y",)),
        weight_axes={},
        taps=("middle", "first"),
        inputs={"x": np.float32(rng.normal(size=(4, 6)))},
        weights={name: np.float32(array) for name, array in weights.items()},
        cotangents={"y": np.float32(rng.normal(size=(4, 6)))},
    )


def explained(adapter, job):
    return explain(TorchReference(Right()), with_results(job, TorchEngine(adapter()).evaluate(job)))


def labels(stages, job):
    return [quantity.label for quantity in in_order(job, map(parse, stages))]


def test_the_order_is_that_of_the_graph_and_not_of_the_declaration(job):
    stages, _ = explained(Right, job)
    order = labels(stages, job)
    assert order[:3] == ["first", "middle", "y"]
    assert order.index("dnorm2.bias") < order.index("d_middle") < order.index("dlinear.weight")
    assert order.index("dlinear.bias") < order.index("d_first") < order.index("dnorm1.bias")
    assert order[-1] == "dx"
    # A control: without the graph, the declaration alone is known.
    declared = [quantity.label for quantity in in_order(job)]
    assert declared.index("dnorm1.bias") < declared.index("dnorm2.bias")


def test_the_operations_are_those_of_the_stage(job):
    stages = {parse(key).label: names.split() for key, names in explained(Right, job)[0].items()}
    assert stages["first"] == ["layer_norm"]
    assert stages["middle"] == ["linear", "sigmoid"]
    assert stages["y"] == ["mean", "broadcast_mul", "layer_norm"]
    assert stages["d_first"] == ["linear", "sigmoid"]
    assert stages["dnorm2.bias"] == ["layer_norm"]


def test_a_fault_in_the_second_norm_is_not_the_first_ones(job):
    results = TorchEngine(Wrong()).evaluate(job)
    solution = TorchReference(Right()).solve(job)
    wrong = {q.label for q in solution if not np.allclose(results[q].values, solution[q][0], rtol=1e-3, atol=1e-6)}
    assert wrong == {"dnorm2.bias", "dnorm2.bias@ones"}
    assert explained(Wrong, job)[1] == {}


def test_a_stage_is_changed_and_its_own_taps_are_given(job):
    """The fault is in the second stage, whose hypotheses see the runner's own first tap."""
    _, causes = explained(Transposed, job)
    assert set(causes) == {"weight is transposed"}
    assert explained(Right, job)[1] == {}


def test_without_taps_the_outputs_are_looked_at(job):
    _, causes = explained(Transposed, replace(job, taps=()))
    assert set(causes) == {"weight is transposed"}


def test_another_reference_says_that_it_cannot_and_imports_nothing_for_it(monkeypatch):
    monkeypatch.setattr(worker, "import_module", pytest.fail)
    with pytest.raises(Unsupported, match="the operations of a NumPy reference are not known"):
        worker._answer(NumpyReference(NumpyAdapter()), Request(1, Do.EXPLAIN))
