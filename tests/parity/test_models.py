"""The models of a caller: weights by native path, runs in a dtype, and the calls of submodules."""

import numpy as np
import pytest
import torch
from flax import nnx

from eca_multi.parity import SpecError
from eca_multi.parity.models import Given, model_of

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
ONES = {"y": np.ones((5, 2), np.float32)}


def torch_net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(inplace=True), torch.nn.Linear(3, 2)).eval()


class NnxNet(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a, self.drop, self.b = (
            nnx.Linear(4, 3, rngs=rngs),
            nnx.Dropout(0.5, rngs=rngs),
            nnx.Linear(3, 2, rngs=rngs),
        )

    def __call__(self, x):
        return self.b(self.drop(nnx.relu(self.a(x)), deterministic=True))


def twins():
    reference, port = model_of(torch_net()), model_of(NnxNet())
    held = reference.weights()
    copied = {"a.kernel": held["0.weight"].T, "a.bias": held["0.bias"]}
    copied |= {"b.kernel": held["2.weight"].T, "b.bias": held["2.bias"]}
    return reference, port.with_weights(copied)


def test_two_frameworks_give_the_same_outputs_and_gradients_under_their_own_paths():
    reference, port = (model.run(X, "float32", ONES) for model in twins())
    np.testing.assert_allclose(port.outputs["y"], reference.outputs["y"], rtol=1e-5)
    np.testing.assert_allclose(port.input_gradients["x"], reference.input_gradients["x"], rtol=1e-5)
    np.testing.assert_allclose(port.weight_gradients["a.kernel"].T, reference.weight_gradients["0.weight"], rtol=1e-5)
    assert set(port.weight_gradients) == {"a.kernel", "a.bias", "b.kernel", "b.bias"} == twins()[1].trained()


def test_calls_hold_what_went_in_and_came_out_even_where_a_module_writes_in_place():
    reference, port = (model.run(X, "float32", ONES, record=True) for model in twins())
    assert [call.path for call in reference.calls] == ["0", "1", "2", ""]
    assert [call.path for call in port.calls] == ["a", "drop", "b", ""]
    linear, relu = reference.calls[:2]
    assert (linear.outputs["y"] < 0).any()
    assert (relu.inputs["x0"] == linear.outputs["y"]).all()
    for one, other in zip(reference.calls, port.calls, strict=True):
        gradients = one.gradients["y"], other.gradients["y"]
        assert one.path == "1" or np.allclose(*gradients, rtol=1e-5), one.path


@pytest.mark.parametrize("number", [0, 1])
def test_a_given_input_replaces_that_of_one_call_and_ends_the_run(number):
    model, path = twins()[number], ("2", "b")[number]
    hidden = np.random.default_rng(1).normal(size=(7, 3))
    run = model.run(X, "float64", given=Given((path, 0), {"x0": hidden}))
    held = twins()[0].weights()
    assert run.outputs == {}
    assert run.calls[-1].path == path
    expected = hidden @ np.float64(held["2.weight"]).T + held["2.bias"]
    np.testing.assert_allclose(run.calls[-1].outputs["y"], expected, rtol=1e-12)


def test_a_run_changes_nothing_of_the_caller():
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first, second = (model_of(net).run(X, record=True).outputs["y"] for _ in range(2))
    assert (first == second).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert "forward" not in vars(net[0])


def test_a_model_says_where_it_would_behave_as_in_training():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.1), torch.nn.BatchNorm1d(4))
    assert model_of(net).training == "1 (Dropout)"
    net[1].p = 0
    assert model_of(net).training == "2 (BatchNorm1d)"
    assert model_of(net.eval()).training == ""
    module = NnxNet()
    assert model_of(module).training == "drop (Dropout)"
    module.eval()
    assert model_of(module).training == ""


@pytest.mark.parametrize("thing", [torch.nn.Linear, 3, (torch.nn.Linear(2, 2),), lambda x: x])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(SpecError, match=r"a model must be a torch nn.Module.* Received: "):
        model_of(thing)
