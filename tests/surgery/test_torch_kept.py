"""What surgery keeps of a torch network: checkpoints, attributes, dtypes, lazy modules, states apart."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from eca_multi.surgery.errors import (
    ChannelInferenceError,
    NoSiteError,
)
from eca_multi.surgery.plan import ECAPlan
from eca_multi.torch import (
    base_state,
    eca_parameters,
    eca_state,
    freeze_except_eca,
    insert_eca,
    installed_eca,
    load_base_state,
    load_eca_state,
    plan_eca,
    remove_eca,
)
from eca_multi.torch._unchanged import _random_states
from tests.support.networks_torch import (
    randomised,
    resnet,
)
from tests.support.surgery_torch import copied, image, same_state


def test_old_checkpoints_load_and_new_ones_load_strictly():
    old, x = randomised(resnet()), image()
    net = insert_eca(randomised(resnet(), seed=5))
    missing, unexpected = net.load_state_dict(old.state_dict(), strict=False)
    assert unexpected == []
    assert all(name.endswith(".eca.conv.weight") for name in missing)
    assert torch.equal(net(x), old(x))
    fresh = insert_eca(resnet(), plan=ECAPlan.from_json(installed_eca(net).to_json())).eval()
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x), old(x))


def test_a_child_called_base_is_no_riddle():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.base(x)

    net = nn.Sequential(Odd())
    state = copied(net)
    insert_eca(net, ["0"], kernel_size=3, example_inputs=image())
    assert net.load_state_dict(state, strict=False).unexpected_keys == []
    assert torch.equal(net[0].base.weight, state["0.base.weight"])
    net.load_state_dict(net.state_dict())
    old = {f"0.base.{name.removeprefix('0.')}": value + 1 for name, value in state.items()}  # as earlier versions wrote
    assert net.load_state_dict(old, strict=False).unexpected_keys == []
    assert torch.equal(net[0].base.weight, state["0.base.weight"] + 1)
    assert base_state(net).keys() == state.keys()


def test_the_states_apart():
    net = insert_eca(randomised(resnet()))
    plain = resnet()
    plain.load_state_dict(base_state(net))
    with torch.no_grad():
        for kernel in eca_parameters(net):
            nn.init.normal_(kernel)
    kernels = {name: value.clone() for name, value in eca_state(net).items()}
    assert len(kernels) == 4
    load_base_state(net, plain.state_dict())
    assert not any(value.any() for value in eca_state(net).values())
    load_eca_state(net, kernels)
    assert all(torch.equal(eca_state(net)[name], value) for name, value in kernels.items())


@pytest.mark.parametrize("load", [load_base_state, load_eca_state])
def test_a_state_that_does_not_fit_changes_nothing(load):
    net = insert_eca(randomised(resnet()))
    state = copied(net)
    part = base_state(net) if load is load_base_state else eca_state(net)
    names = list(part)
    wrong = {**part, "more": torch.zeros(1), names[1]: torch.zeros(7)}
    del wrong[names[0]]
    with pytest.raises(ValueError, match=rf"3 differences: {names[0]}: missing; more: unexpected; {names[1]}: shape"):
        load(net, wrong)
    assert same_state(net, state)


def test_only_eca_is_trained_where_that_is_asked_for():
    net, x = freeze_except_eca(insert_eca(randomised(resnet()))), image()
    state = base_state(net)
    before = {name: value.clone() for name, value in state.items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(x).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in base_state(net).items())
    assert all(kernel.any() for kernel in eca_parameters(net))


def test_a_copy_leaves_the_model_alone():
    net = randomised(resnet())
    state = copied(net)
    other = insert_eca(net, inplace=False)
    assert same_state(net, state)
    assert installed_eca(net).entries == ()
    assert len(installed_eca(other).entries) == 4


def test_partial_removal():
    net = remove_eca(insert_eca(resnet()), include=r"blocks\.[01]\..*")
    assert installed_eca(net).paths == ("blocks.2.bn2", "blocks.3.bn2")
    with pytest.raises(NoSiteError, match="include must match a site"):
        remove_eca(net, include="stem")


def test_dtype_and_device_are_the_sites():
    net = resnet().to(torch.bfloat16)
    insert_eca(net)
    assert {kernel.dtype for kernel in eca_parameters(net)} == {torch.bfloat16}
    assert net(image().to(torch.bfloat16)).dtype == torch.bfloat16
    with torch.device("meta"):
        away = resnet()
    insert_eca(away)
    assert {kernel.device.type for kernel in eca_parameters(away)} == {"meta"}


def test_a_transposed_convolution_keeps_its_arguments():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 4, 3, stride=2)

        def forward(self, x):
            return self.up(x, output_size=(26, 26))

    net, x = Up(), image()
    before = net(x)
    assert torch.equal(insert_eca(net, "conv", example_inputs=x)(x), before)


def test_lazy_modules():
    net = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d())
    assert plan_eca(net, "conv").entries[0].channels == 8
    with pytest.raises(ChannelInferenceError, match=r"channels at '1' .LazyBatchNorm2d. must be known"):
        plan_eca(net, "norm")
    insert_eca(net, "norm", kernel_size=3)
    assert net(image()).shape == (2, 8, 10, 10)
    assert net[1].eca.channels == 8


class Settings(OrderedDict):
    """A table that refuses to be changed, as diffusers' models have one."""

    def update(self, *args, **kwargs):
        raise TypeError("settings are frozen")


def test_a_failure_leaves_a_users_own_tables_alone():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    net.config, net.cache = Settings(width=8), {"seen": image()}
    with pytest.raises(NoSiteError, match="where='norm'"):
        plan_eca(net, "norm")
    assert dict(net.config) == {"width": 8}
    assert list(net.cache) == ["seen"]


def test_a_failure_leaves_lazy_modules_lazy():
    """One that is half initialised would raise AttributeError at each later call."""
    net = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.LazyBatchNorm2d())
    with pytest.raises(NoSiteError, match="where='residual'"):
        plan_eca(net, example_inputs=image())
    assert [type(module) for module in net] == [nn.LazyConv2d, nn.ReLU, nn.LazyBatchNorm2d]
    assert all(map(is_lazy, net.parameters()))
    assert net(image(n=4)).shape == (4, 8, 10, 10)
    assert [type(module) for module in net] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]


def test_lazy_modules_are_run_on_example_inputs():
    net = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d())
    assert plan_eca(net, "norm", example_inputs=image()).entries[0].channels == 8
    assert torch.equal(net[1].running_mean, torch.zeros(8))


def test_a_failure_does_not_touch_what_has_not_changed():
    """Another thread may be running the network."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    watched, seen = Watched(vars(net)), []
    watched.seen = seen
    object.__setattr__(net, "__dict__", watched)
    with pytest.raises(NoSiteError, match="where='norm'"):
        plan_eca(net, "norm")
    assert seen == []
    watched.clear()
    assert seen == ["clear"]


class Watched(dict):
    def clear(self):
        self.seen.append("clear")
        super().clear()


def test_a_device_whose_generator_torch_does_not_know_is_left_alone():
    class OnXLA(nn.Module):
        def parameters(self, recurse=True):
            return iter([type("Elsewhere", (), {"device": torch.device("xla:0")})()])

    assert [device.type for device, _ in _random_states(OnXLA())] == ["cpu"]


def test_the_papers_start_changes_the_outputs():
    net, x = randomised(resnet()), image()
    before = net(x)
    plan = plan_eca(net, gate="sigmoid", init="uniform")
    assert not plan.keeps_output
    assert not torch.equal(insert_eca(net, plan=plan, example_inputs=x)(x), before)
