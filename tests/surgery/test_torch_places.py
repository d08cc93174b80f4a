"""A gate keeps its place and its hook: pickled networks, lazy and parametrized layers, children that change places."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.hooks import RemovableHandle

from eca_multi.torch import eca_parameters, insert_eca, remove_eca
from tests.support.networks_torch import randomised
from tests.support.surgery_torch import image


def off_identity(net):
    with torch.no_grad():
        for kernel in eca_parameters(net):
            nn.init.normal_(kernel, generator=torch.Generator().manual_seed(1))
    return net


def stack():
    return randomised(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))


@pytest.mark.parametrize("key", [-1, 5])
def test_a_hook_of_another_process_does_not_replace_the_gates(key, monkeypatch):
    """A process counts its hooks from 0; one with the number of a hook that was pickled takes that hook's place."""
    net = off_identity(insert_eca(stack(), "conv"))
    expected, ungated = net(image()), remove_eca(copy.deepcopy(net))(image())
    hooks = net[0]._forward_hooks
    hooks[key] = hooks.pop(-1)  # 5 is the control: the number that torch could have given
    net = pickle.loads(pickle.dumps(net))
    monkeypatch.setattr(RemovableHandle, "next_id", 0)
    for _ in range(10):
        net[0].register_forward_hook(lambda *_: None)
    assert torch.equal(net(image()), expected if key == -1 else ungated)
    assert not torch.equal(expected, ungated)


@pytest.mark.parametrize("first", ["weight norm", "ECA"])
def test_a_layer_that_is_parametrized_for_a_while_is_not_folded(first):
    net = stack()
    steps = {"weight norm": lambda: weight_norm(net[0]), "ECA": lambda: insert_eca(net, "conv")}
    steps.pop(first)(), *[step() for step in steps.values()]
    parametrize.remove_parametrizations(off_identity(net)[0], "weight")
    torch.testing.assert_close(fuse(net)(image()), net(image()), rtol=1e-4, atol=1e-4)
    assert type(remove_eca(net)[0]) is nn.Conv2d


def test_a_copy_does_not_change_the_class_of_a_parametrized_layer():
    net = stack()
    weight_norm(net[0])
    kind = type(net[0])
    insert_eca(net, "conv", inplace=False)
    assert type(net[0]) is kind
    assert kind.__bases__ == (nn.Conv2d,)


def test_a_parametrized_layer_gets_its_own_class_back():
    net = stack()
    weight_norm(net[0])
    kind = type(net[0])
    assert type(insert_eca(net, "conv")[0]) is not kind
    assert type(remove_eca(net)[0]) is kind
    weight_norm(insert_eca(net, "conv")[0], "bias", dim=0)  # the control: the old class knows no parametrized bias
    bias = net[0].bias
    kept = remove_eca(net)[0]
    assert type(kept) is not kind
    assert type(kept).__bases__ == (nn.Conv2d,)
    torch.testing.assert_close(kept.bias, bias)


def test_a_lazy_layer_is_not_folded_once_it_has_its_weights():
    net = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    net = pickle.loads(pickle.dumps(insert_eca(net, ["1"], kernel_size=3)))
    net(image())
    off_identity(randomised(net))
    torch.testing.assert_close(fuse(net)(image()), net(image()), rtol=1e-4, atol=1e-4)
    assert [type(module) for module in remove_eca(net)] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


def test_a_lazy_layer_stays_lazy_without_its_gate():
    net = remove_eca(insert_eca(nn.Sequential(nn.LazyConv2d(8, 3)), ["0"], kernel_size=3))
    assert type(net[0]) is nn.LazyConv2d
    net(image())
    assert type(net[0]) is nn.Conv2d


def test_two_children_that_change_places_leave_one_gate_in_its_place():
    net = insert_eca(nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(3))), ["1"])
    layer, (_, b, c) = net[1].eca, net
    net[1], net[2] = c, b
    assert [name for name in net.state_dict() if ".eca." in name] == ["1.eca.conv.weight"]
    assert c.eca is layer
    remove_eca(net)
    assert type(b) is type(c) is nn.Conv2d


def test_children_with_gates_of_their_own_take_them_along():
    net = insert_eca(nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(3))), "conv")
    layers = [module.eca for module in net]
    net[0], net[1], net[2] = net[1], net[2], net[0]
    assert [layers.index(module.eca) for module in net] == [1, 2, 0]


def test_hooks_of_the_user_that_change_what_goes_on():
    net = stack()
    net[1].register_forward_hook(lambda module, args, output: 2 * output, prepend=True)
    net[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    expected, hooks = net(image()), list(net[1]._forward_hooks)
    insert_eca(net, "norm", example_inputs=image())
    assert torch.equal(net(image()), expected)
    assert list(remove_eca(net)[1]._forward_hooks) == hooks
