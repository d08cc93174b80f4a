"""Errors of torch surgery: the message says what to do, and the network is as it was."""

import pytest
import torch
from torch import nn

from eca_multi.surgery.errors import (
    NoSiteError,
    PlanMismatchError,
    UnsupportedModelError,
    VerifyError,
)
from eca_multi.torch import (
    eca_parameters,
    infer_plan,
    insert_eca,
    installed_eca,
    plan_eca,
)
from tests.support.networks_torch import (
    Bottleneck,
    Dense,
    Net,
    Squeeze,
    randomised,
    resnet,
)
from tests.support.surgery_torch import copied, image, same_state


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


Wrapper.__name__ = "DistributedDataParallel"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: torch.zeros(3), TypeError, "model must be a torch.nn.Module. Received: Tensor"),
        (lambda: nn.Conv2d(3, 8, 3), UnsupportedModelError, "Conv2d alone. Pass torch.nn.Sequential"),
        (lambda: nn.DataParallel(resnet()), UnsupportedModelError, "Pass model.module"),
        (lambda: Wrapper(resnet()), UnsupportedModelError, "a DistributedDataParallel. Pass model.module"),
        (lambda: torch.compile(resnet()), UnsupportedModelError, "from before torch.compile"),
        (lambda: torch.jit.trace(resnet().eval(), image()), UnsupportedModelError, "Insert before torch.jit.script"),
        (lambda: Net(Dense(8), o=8), NoSiteError, r"where='residual'.*Try where='conv_norm' \(2 sites\)"),
    ],
    ids=["no model", "a layer", "DataParallel", "DDP", "compiled", "traced", "no add"],
)
def test_what_cannot_be_changed_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        insert_eca(make())


def test_a_model_that_is_being_traced_is_refused():
    class Meddler(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = resnet()

        def forward(self, x):
            return insert_eca(self.net)(x)

    net = Meddler()
    with pytest.raises(UnsupportedModelError, match="must not be changed while it is traced"):
        torch.jit.trace(net.eval(), image())
    assert installed_eca(net).entries == ()


def test_a_site_without_positions_is_refused():
    with pytest.raises(NoSiteError, match="rank 2: ECA averages over positions"):
        plan_eca(resnet(), ["fc"])
    net = nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.BatchNorm1d(8))
    with pytest.raises(NoSiteError, match="2: its output has rank 2"):
        plan_eca(net, "norm", example_inputs=torch.randn(2, 3, 3, 3))


def test_tokens_are_no_feature_map():
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.Flatten(2), nn.LayerNorm(10))
    with pytest.raises(NoSiteError, match="a sequence of tokens"):
        plan_eca(net, "norm", example_inputs=torch.randn(2, 3, 12))


def test_a_container_is_not_wrapped():
    with pytest.raises(NoSiteError, match=r"a container; name its last module, blocks.3"):
        plan_eca(resnet(), ["blocks"])


def test_a_plan_of_another_architecture_lists_all_differences():
    other = Net(Bottleneck(8), o=8)
    state = copied(other)
    with pytest.raises(PlanMismatchError, match=r"4 differences: blocks.0.bn2: is not there; blocks.1.bn2"):
        insert_eca(other, plan=plan_eca(resnet()))
    assert same_state(other, state)


def half_on_meta():
    net = resnet()
    net.blocks[2].to("meta")
    return net


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(Wrapper(resnet()), nn.ReLU()), "Received: 0, a DistributedDataParallel.*model.module"),
        (half_on_meta, r"Received: 18 of 57 on the meta device, blocks.2.conv1.weight the first"),
    ],
    ids=["DDP inside", "half on meta"],
)
@pytest.mark.parametrize("call", [plan_eca, insert_eca])
def test_a_network_that_cannot_take_parameters_or_be_run(call, make, message):
    net = make()
    names = list(net.state_dict())
    with pytest.raises(UnsupportedModelError, match=message):
        call(net, example_inputs=image())
    assert list(net.state_dict()) == names


def test_insertion_between_two_steps_under_amp():
    """Gradients that wait for their step, the scaler's optimizer and the dtypes stay."""
    net, x = randomised(resnet()).train(), image()
    optimizer, scaler = torch.optim.SGD(net.parameters(), 0.1), torch.amp.GradScaler("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        scaler.scale(net(x).float().square().mean()).backward()
        before = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
        insert_eca(net, example_inputs=x)
    optimizer.add_param_group({"params": eca_parameters(net)})
    assert all(torch.equal(net.get_parameter(name).grad, grad) for name, grad in before.items())
    scaler.step(optimizer)
    scaler.update()
    net(x).square().mean().backward()
    assert all(kernel.dtype == torch.float32 and kernel.grad.any() for kernel in eca_parameters(net))


def test_an_insertion_in_inference_mode_can_be_trained():
    net, x = resnet(), image()
    with torch.inference_mode():
        insert_eca(net, example_inputs=x)
    net(x).sum().backward()
    assert all(kernel.grad is not None for kernel in eca_parameters(net))


def test_a_network_that_is_gated_in_another_wrapper_already_stays_as_it_is():
    net, x = resnet(), image()
    insert_eca(nn.Sequential(net), example_inputs=x)
    names = list(net.state_dict())
    insert_eca(nn.Sequential(net, nn.ReLU()), example_inputs=x)
    assert list(net.state_dict()) == names


class Chain(nn.Module):
    """Calls whatever children it has, and hides that."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        for child in getattr(self, "chil" + "dren")():
            x = child(x)
        return x


def test_a_gate_that_is_called_twice_is_found():
    net, x = nn.Sequential(Chain()), image()
    state = copied(net)
    with pytest.raises(VerifyError, match="0: base called 1 times, its ECA 2"):
        insert_eca(net, ["0"], kernel_size=3, example_inputs=x)
    assert same_state(net, state)
    assert not net[0]._forward_hooks


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_failure_half_way_leaves_the_model_as_it_was(number, monkeypatch):
    from eca_multi.torch.surgery import insert

    put, done = insert.wrap, []

    def failing(*args):
        if len(done) == number:
            raise RuntimeError("no more")
        done.append(put(*args))

    monkeypatch.setattr(insert, "wrap", failing)
    net = randomised(resnet())
    state, modules = copied(net), list(net.modules())
    with pytest.raises(RuntimeError, match="no more"):
        insert_eca(net)
    assert same_state(net, state)
    assert all(one is other for one, other in zip(net.modules(), modules, strict=True))


def test_inputs_that_do_not_fit_are_named():
    with pytest.raises(UnsupportedModelError, match=r"model must run on example_inputs. Received: RuntimeError"):
        plan_eca(resnet(), example_inputs=torch.zeros(1, 5, 8, 8))


def test_a_checkpoint_without_eca_tells_no_plan():
    with pytest.raises(NoSiteError, match="state must have kernels of inserted ECAs"):
        infer_plan(resnet(), resnet().state_dict())
    with pytest.raises(PlanMismatchError, match=r"blocks.0.bn2: is not there"):
        infer_plan(Net(Squeeze(8), o=8), insert_eca(resnet()).state_dict())


def test_a_model_in_the_middle_of_training_under_amp():
    """Nothing is lost: gradients stay, the new kernels have the dtype of the weights, and the outputs their bits."""
    net, x = randomised(resnet()).train(), image()
    with torch.autocast("cpu", torch.bfloat16):
        (net(x).float().square().mean() * 2.0**12).backward()  # scaled, not stepped yet
    gradients = {name: p.grad.clone() for name, p in net.named_parameters()}
    with torch.autocast("cpu", torch.bfloat16):
        before = net.eval()(x)
        insert_eca(net.train(), example_inputs=x)
        assert torch.equal(net.eval()(x), before)
    assert {kernel.dtype for kernel in eca_parameters(net)} == {torch.float32}
    assert all(torch.equal(p.grad, gradients[name]) for name, p in net.named_parameters() if name in gradients)
    assert len(gradients) == len(list(net.parameters())) - len(eca_parameters(net))
