"""What a case can see of the faults that ports have: each fault is what it says, and only a verdict shows one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eca_multi import parity
from eca_multi.parity import Case, Spec, TorchAdapter
from eca_multi.parity.budget.torch_reference import TorchReference
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.spec import STANDARD
from eca_multi.parity.define.tensor import Kind, Quantity, Tensor
from eca_multi.parity.engines.torch import TorchEngine
from eca_multi.parity.execute.tasks import tasks
from eca_multi.parity.judge.sight import judge_sight
from eca_multi.parity.judge.verdicts import Judge
from eca_multi.parity.mutants.layer import ports
from eca_multi.parity.mutants.mode import Mutating
from eca_multi.parity.mutants.porting import PORTING
from eca_multi.parity.specs import batch_norm, layer_norm
from eca_multi.parity.specs.eca import SPEC as ECA
from eca_multi.parity.specs.eca import Torch as Eca

JUDGE = Judge(BASE, "stochastic")
X = torch.randn(2, 4, 6, generator=torch.manual_seed(0))
W, B = torch.linspace(0.5, 2, 6), torch.linspace(-1, 1, 6)


def changed(fault, function, *args, **kwargs):
    mode = Mutating(PORTING[fault])
    with mode:
        result = function(*args, **kwargs)
    assert mode.applied
    return result


def unchanged(fault, function, *args, **kwargs):
    mode = Mutating(PORTING[fault])
    with mode:
        function(*args, **kwargs)
    return not mode.applied


def sight_of(adapter, spec, case, dtype, **changes):
    (task,) = tasks(spec, [spec.case(case)], [dtype], BASE)
    task = replace(task, job=replace(task.job, **changes))
    results = {name: found for name, found in ports(TorchEngine(adapter()), task.job) if found is not None}
    return judge_sight(JUDGE, task, results, TorchReference(adapter()).solve(task.job))


# --- the faults are what they say


def test_eps_is_a_hundred_times_as_large_or_as_small():
    for eps, other in ((1e-5, 1e-3), (1e-3, 1e-5)):
        torch.testing.assert_close(changed("eps", F.layer_norm, X, (6,), W, B, eps), F.layer_norm(X, (6,), W, B, other))
        torch.testing.assert_close(
            changed("eps", lambda e: 1 / (X.var(-1) + e).sqrt(), eps), 1 / (X.var(-1) + other).sqrt()
        )
    torch.testing.assert_close(changed("eps", F.rms_norm, X, (6,), W, 1e-6), F.rms_norm(X, (6,), W, 1e-4))
    groups = X.transpose(1, 2)
    torch.testing.assert_close(changed("eps", F.group_norm, groups, 3), F.group_norm(groups, 3, eps=1e-3))
    torch.testing.assert_close(changed("eps", F.instance_norm, X), F.instance_norm(X, eps=1e-3))
    assert unchanged("eps", lambda: X + 1.0)


def test_attention_loses_its_scale():
    right, wrong = F.scaled_dot_product_attention(X, X, X), F.scaled_dot_product_attention(X, X, X, scale=1.0)
    assert not torch.allclose(right, wrong)
    torch.testing.assert_close(changed("1/sqrt(d)", F.scaled_dot_product_attention, X, X, X), wrong)
    by_hand = [lambda: (X @ X.mT) * 6**-0.5, lambda: (X * 6**-0.5) @ X.mT, lambda: (X / 6**0.5) @ X.mT]
    for function in by_hand[1:]:
        torch.testing.assert_close(changed("1/sqrt(d)", function), X @ X.mT)
    assert unchanged("1/sqrt(d)", lambda: F.scaled_dot_product_attention(X, X, X, scale=1.0))
    assert unchanged("1/sqrt(d)", lambda: X * 0.5)


def test_each_form_of_gelu_becomes_the_other():
    tanh = F.gelu(X, approximate="tanh")
    assert torch.equal(changed("tanh GELU", F.gelu, X), tanh)
    assert torch.equal(changed("tanh GELU", F.gelu, X, approximate="tanh"), F.gelu(X))
    torch.testing.assert_close(changed("tanh GELU", lambda: 0.5 * X * (1 + torch.erf(X / 2**0.5))), tanh)


def statistics(fault, momentum=0.1):
    mean, var = torch.zeros(4), torch.ones(4)
    function = F.batch_norm if fault is None else lambda *a, **k: changed(fault, F.batch_norm, *a, **k)
    return function(X, mean, var, training=True, momentum=momentum), mean, var


def test_momentum_becomes_its_complement():
    for right, wrong in zip(statistics(None, 0.9), statistics("momentum", 0.1), strict=True):
        torch.testing.assert_close(right, wrong)
    assert unchanged("momentum", F.batch_norm, X, torch.zeros(4), torch.ones(4))  # at inference


def test_the_running_variance_is_over_n():
    y, mean, var = statistics("n - 1")
    right, right_mean, _ = statistics(None)
    assert torch.equal(y, right)
    assert torch.equal(mean, right_mean)
    torch.testing.assert_close(var, 0.9 + 0.1 * X.transpose(0, 1).flatten(1).var(1, correction=0))


def test_a_variance_is_over_n_minus_1_or_the_other_way_round():
    by_hand = (X - X.mean(-1, keepdim=True)) / (X.var(-1, keepdim=True) + 1e-5).sqrt() * W + B
    torch.testing.assert_close(changed("n - 1", F.layer_norm, X, (6,), W, B), by_hand)
    grouped = X.transpose(1, 2)  # 6 channels in 3 groups of 8 values
    flat = grouped.reshape(2, 3, 8)
    by_hand = ((flat - flat.mean(-1, keepdim=True)) / (flat.var(-1, keepdim=True) + 1e-5).sqrt()).reshape(2, 6, 4)
    torch.testing.assert_close(changed("n - 1", F.group_norm, grouped, 3), by_hand)
    x = X.clone().requires_grad_()
    torch.testing.assert_close(changed("n - 1", x.var, -1), X.var(-1, correction=0))
    torch.testing.assert_close(changed("n - 1", x.var, -1, unbiased=False), X.var(-1))
    torch.testing.assert_close(changed("n - 1", x.std, -1), X.std(-1, correction=0))


def test_a_bias_is_left_out_and_keeps_its_gradient():
    bias = B.clone().requires_grad_()
    for function in (lambda: F.linear(X, torch.eye(6), bias), lambda: X + bias, lambda: F.layer_norm(X, (6,), W, bias)):
        out = changed("bias", function)
        torch.testing.assert_close(out, function() - B)
        assert torch.autograd.grad(out.sum(), bias)[0].eq(8).all()
    assert unchanged("bias", F.linear, X, torch.eye(6))
    assert unchanged("bias", lambda: X + X)


def test_parts_of_one_tensor_change_places():
    x = X.clone().requires_grad_()
    first, second, third = x.chunk(3, -1)
    assert all(map(torch.equal, changed("part order", x.chunk, 3, -1), (second, first, third)))
    assert unchanged("part order", x.split, [2, 4], -1)


# --- recurrent layers


def reordered(layer, places):
    """Return the layer's twin whose weights are in another order of the gates."""
    twin = type(layer)(*layer.init, **layer.options)
    state = {
        name: torch.cat([w.chunk(len(places))[place] for place in places]) for name, w in layer.state_dict().items()
    }
    twin.load_state_dict(state)
    return twin


def made(kind, *init, **options):
    torch.manual_seed(1)
    layer = kind(*init, **options)
    layer.init, layer.options = init, options
    return layer


STATE = torch.linspace(-1, 1, 6).reshape(2, 3)


@pytest.mark.parametrize(
    ("layer", "places", "inputs"),
    [
        (made(nn.LSTM, 6, 3, 2, bidirectional=True), (0, 1, 3, 2), (X,)),
        (made(nn.GRU, 6, 3), (1, 0, 2), (X,)),
        (made(nn.LSTMCell, 6, 3), (0, 1, 3, 2), (X[:, 0], (STATE, STATE))),
        (made(nn.GRUCell, 6, 3), (1, 0, 2), (X[:, 0], STATE)),
    ],
    ids=["LSTM", "GRU", "LSTMCell", "GRUCell"],
)
def test_gates_are_read_in_another_order(layer, places, inputs):
    wrong, twin = changed("gate order", layer, *inputs)[0], reordered(layer, places)(*inputs)[0]
    torch.testing.assert_close(wrong, twin)
    assert not torch.allclose(wrong, layer(*inputs)[0])


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False}]
)
def test_the_reset_gate_comes_before_the_product(options):
    """Where the new gate's weights of the state are a multiple of 1, before and after are the same."""
    layer = made(nn.GRU, 6, 3, **options)
    wrong, wrong_last = changed("reset gate", layer, X)
    right, right_last = layer(X)
    assert (wrong.shape, wrong_last.shape) == (right.shape, right_last.shape)
    assert not torch.allclose(wrong, right)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("weight_hh"):
                parameter[6:] = 0.7 * torch.eye(3)
            if name.startswith("bias_hh"):
                parameter[6:] = 0
    for wrong, right in zip(changed("reset gate", layer, X), layer(X), strict=True):
        torch.testing.assert_close(wrong, right)


def test_the_reset_gate_of_a_cell():
    cell, layer = made(nn.GRUCell, 6, 3), made(nn.GRU, 6, 3)
    layer.load_state_dict({f"{name}_l0": w for name, w in cell.state_dict().items()})
    in_layer = changed("reset gate", layer, X[:1], STATE[:1].expand(1, 4, 3))[0]
    torch.testing.assert_close(changed("reset gate", cell, X[0], STATE[:1].expand(4, 3)), in_layer[0])
    assert unchanged("reset gate", layer, nn.utils.rnn.pack_sequence([X[0], X[1]]))


# --- what a case sees


def test_half_precision_sees_eps_beside_a_small_variance_alone():
    adapter, spec = layer_norm.TorchHalf, layer_norm.SPEC
    assert set(sight_of(adapter, spec, "offsets", "float32").seen) == {"eps", "bias", "n - 1"}
    assert sight_of(adapter, spec, "offsets", "float32").unseen == ()
    assert "eps" in sight_of(adapter, spec, "offsets", "bfloat16").unseen
    assert "eps" in sight_of(adapter, spec, "quiet", "bfloat16").seen


def test_training_sees_momentum_and_inference_has_no_place_for_it():
    training = sight_of(batch_norm.TorchDefaults, batch_norm.SPEC, "small-batch", "bfloat16")
    inference = sight_of(batch_norm.TorchDefaults, batch_norm.SPEC, "inference", "bfloat16")
    assert {"momentum", "n - 1"} <= set(training.seen)
    assert {"momentum", "n - 1"}.isdisjoint({*inference.seen, *inference.unseen})


def test_no_fault_of_porting_has_a_place_in_eca():
    (task,) = tasks(ECA, [ECA.case("offsets")], ["float32"], BASE)
    found = dict(ports(TorchEngine(Eca()), task.job))
    assert [name for name, results in found.items() if results is not None] == [""]


class Gelu(TorchAdapter):
    def build(self, config):
        return lambda inputs, weights: F.gelu(inputs["x"] * weights["scale"])


GELU = Spec("Gelu", "NC", {"scale": "C"}, {"torch": Gelu}, Gelu, cases=[Case("offsets"), STANDARD[1]])


def test_a_tensor_that_is_red_without_a_fault_shows_none():
    (task,) = tasks(GELU, [GELU.case("offsets")], ["float32"], ["forward"])
    y = Quantity(Kind.OUTPUT, "y")
    solution = {y: TorchReference(Gelu()).solve(task.job)[y]}
    right = TorchEngine(Gelu()).evaluate(task.job)
    wrong = {**right, y: Tensor(2 * right[y].values, "float32")}
    judged = judge_sight(Judge(("forward",), "stochastic"), task, {"": right, "fault": wrong, "none": right}, solution)
    assert (judged.seen, judged.unseen) == (("fault",), ("none",))
    broken = {
        name: {**results, y: Tensor(3 + results[y].values, "float32")}
        for name, results in (("", right), ("fault", wrong))
    }
    assert judge_sight(Judge(("forward",), "stochastic"), task, broken, solution).unseen == ("fault",)


def test_a_run_says_what_its_dtype_and_case_cannot_see(tmp_path):
    """And a specification with an analytic budget is not measured, which would take ECA's own run time for nothing."""
    report = parity.run(GELU, runners=["torch"], dtypes=["float32", "bfloat16"], checks=["forward"])
    assert report.exit_code == 0
    assert {(s.case, s.dtype): s.unseen for s in report.sight} == {
        ("offsets", "float32"): (), ("one-sample", "float32"): (),
        ("offsets", "bfloat16"): ("tanh GELU",), ("one-sample", "bfloat16"): ("tanh GELU",),
    }  # fmt: skip
    assert report.to_dict()["sight"][0] == {
        "case": "offsets", "dtype": "float32", "seen": ["tanh GELU"], "unseen": [], "reason": "",
    }  # fmt: skip
    eca = parity.run(runners=["torch"], dtypes=["float32"], cases=["circular"], checks=["forward"])
    assert eca.sight == []
    assert np.isfinite(report.cells[0].judgement.budget_use)
