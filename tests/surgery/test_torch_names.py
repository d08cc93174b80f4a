"""All names of a torch network stay when ECA goes in, and its gates stay when other code exchanges modules."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import fusion, parametrizations

from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from eca_multi.torch import (
    ECA,
    base_state,
    eca_parameters,
    eca_state,
    infer_plan,
    insert_eca,
    installed_eca,
    load_base_state,
    plan_eca,
    remove_eca,
)
from tests.support.networks_torch import Basic, Hidden, Net, Shared, conv, randomised, resnet
from tests.support.surgery_torch import image


def trained(net):
    """A network whose gates do something."""
    torch.manual_seed(3)
    with torch.no_grad():
        for kernel in eca_parameters(net):
            nn.init.normal_(kernel)
    return net


def gated(make=resnet, *args, **options):
    return trained(insert_eca(randomised(make()), *args, **options))


def names(net):
    return {
        "state_dict": list(net.state_dict()),
        "parameters": [name for name, _ in net.named_parameters(remove_duplicate=False)],
        "modules": [name for name, _ in net.named_modules(remove_duplicate=False)],
    }


@pytest.mark.parametrize("make", [resnet, Shared])
@pytest.mark.parametrize("where", ["conv", "norm"])
def test_names_stay_and_ecas_are_added(make, where):
    plain, net = make(), make()
    modules = dict(net.named_modules())
    insert_eca(net, where)
    for kind, before in names(plain).items():
        after = names(net)[kind]
        assert [name for name in after if name in before] == before
        assert all("eca" in name.split(".") for name in set(after) - set(before))
    assert all(net.get_submodule(path) is module for path, module in modules.items())
    assert all(isinstance(net.get_submodule(path), type(module)) for path, module in plain.named_modules())


def test_attributes_are_the_modules_own():
    net = resnet()
    net.blocks[0].bn2.type = "a string, where nn.Module has a method"
    site = insert_eca(net).blocks[0].bn2
    assert site.type == "a string, where nn.Module has a method"
    site.momentum = 0.5
    site.weight = nn.Parameter(torch.full((8,), 3.0))
    assert (site.momentum, site.num_features) == (0.5, 8)
    assert torch.equal(net.state_dict()["blocks.0.bn2.weight"], torch.full((8,), 3.0))
    assert type(net.blocks[0]) is Basic
    assert repr(site).startswith("BatchNorm2d(")


def kept(state, net):
    """What loaders of many libraries keep of a checkpoint."""
    own = net.state_dict()
    return {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}


def test_loaders_that_keep_known_names_move_everything():
    plain, net = randomised(resnet(), seed=7), insert_eca(resnet()).eval()
    assert kept(plain.state_dict(), net).keys() == plain.state_dict().keys()
    net.load_state_dict(kept(plain.state_dict(), net), strict=False)
    assert torch.equal(net(image()), plain(image()))
    assert kept(net.state_dict(), resnet()).keys() == plain.state_dict().keys()
    ready = gated()
    assert len(kept(ready.state_dict(), net)) == len(ready.state_dict())


def test_a_checkpoint_of_an_earlier_version_loads():
    """In these the module before an ECA was called `base`."""
    net = gated(resnet, ["blocks.0", "blocks.0.bn1", "blocks.1.bn2"], example_inputs=image())
    old = {}
    for name, value in net.state_dict().items():
        renamed = name if "eca" in name else name.replace("blocks.1.bn2.", "blocks.1.bn2.base.")
        renamed = renamed if ".eca." in renamed else renamed.replace("blocks.0.bn1.", "blocks.0.bn1.base.")
        if renamed.startswith("blocks.0.") and not renamed.startswith("blocks.0.eca."):
            renamed = renamed.replace("blocks.0.", "blocks.0.base.")
        old[renamed] = value
    assert "blocks.0.base.bn1.base.weight" in old
    assert "blocks.0.base.bn1.eca.conv.weight" in old
    fresh = insert_eca(resnet(), plan=infer_plan(resnet(), old)).eval()
    fresh.load_state_dict(old)
    assert torch.equal(fresh(image()), net(image()))


def test_a_replica_uses_its_own_ecas():
    """As DataParallel makes replicas: copies of modules that share their tables of hooks."""
    net, x = gated(), image()
    y = net(x)
    replicas = {module: module._replicate_for_data_parallel() for module in net.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            setattr(replica, name, replicas.get(child))
        for name, parameter in module._parameters.items():
            setattr(replica, name, None if parameter is None else parameter.view_as(parameter))
    assert torch.equal(replicas[net](x), y)
    for module, replica in replicas.items():
        if isinstance(module, ECA):
            replica.conv.weight = torch.zeros_like(module.conv.weight)
    assert (replicas[net](x) - y).abs().max() > 1e-2
    assert torch.equal(net(x), y)


def test_a_network_pickled_whole_by_an_earlier_version_is_refused_with_the_way_out():
    with pytest.raises(UnsupportedModelError, match=r"With that version, save model.state_dict\(\)"):
        pickle.loads(b"ceca_multi.torch.surgery._wrap\nGated\n.")
    with pytest.raises(AttributeError, match="attribute 'Other'"):
        pickle.loads(b"ceca_multi.torch.surgery._wrap\nOther\n.")


def test_base_state_keeps_the_versions_of_modules():
    class Versioned(nn.Sequential):
        _version = 2

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
            assert local_metadata.get("version") == 2
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    plain, net = Versioned(resnet()), insert_eca(Versioned(resnet()))
    plain.load_state_dict(base_state(net))
    assert base_state(net)._metadata == plain.state_dict()._metadata
    assert set(eca_state(net)._metadata) == {path for path in names(net)["modules"] if "eca" in path.split(".")}


def test_a_module_in_a_plain_list_is_gated_too():
    net, x = randomised(Hidden()), image()
    before = net(x)
    insert_eca(net, "conv", example_inputs=x)
    assert torch.equal(net(x), before)


def test_hooks_of_the_user_see_the_gated_output():
    net, seen = randomised(resnet()), {}
    net.blocks[0].bn2.register_forward_hook(lambda module, args, out: seen.update(before=out))
    trained(insert_eca(net))
    net.blocks[0].bn2.register_forward_hook(lambda module, args, out: seen.update(after=out))
    net(image())
    assert seen["before"] is seen["after"]
    assert len(remove_eca(net).blocks[0].bn2._forward_hooks) == 2


@pytest.mark.slow
def test_a_network_that_was_compiled_and_called():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = randomised(resnet())

        def forward(self, x):
            return self.net(x)

    net, x = Around(), image()
    plain, compiled = net(x), torch.compile(net, backend="eager")
    compiled(x)
    trained(insert_eca(net, ["net.blocks.0"], example_inputs=x))
    assert (compiled(x) - plain).abs().max() > 1e-3
    torch.testing.assert_close(compiled(x), net(x))
    remove_eca(net)
    torch.testing.assert_close(compiled(x), plain)


@pytest.mark.parametrize("first", ["parametrized", "gated"])
def test_parametrized_modules(first):
    net, x = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU()), torch.randn(2, 3, 9)
    if first == "parametrized":
        parametrizations.weight_norm(net[0])
    trained(insert_eca(net, "conv", example_inputs=x))
    if first == "gated":
        parametrizations.weight_norm(net[0])
    y = net(x)
    assert torch.equal(copy.deepcopy(net)(x), y)
    nn.utils.parametrize.remove_parametrizations(net[0], "weight")
    torch.testing.assert_close(net(x), y)
    assert type(remove_eca(net)[0]) is nn.Conv1d


# --- other code exchanges modules -------------------------------------------------------------------------------------


class Unit(nn.Module):
    """A convolution, a norm and an activation that fold, as detection libraries have them."""

    def __init__(self, i, o):
        super().__init__()
        self.conv, self.bn, self.act = conv(i, o), nn.BatchNorm2d(o), nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))

    def fuse(self):
        self.conv = fusion.fuse_conv_bn_eval(self.conv, self.bn)
        del self.bn
        self.forward = self.forward_fuse


def units():
    return nn.Sequential(Unit(3, 8), Unit(8, 8))


@pytest.mark.parametrize("where", ["conv_norm", "norm", ["0.bn", "1"]])
def test_folding_a_norm_carries_its_gate_to_the_convolution(where):
    net, x = gated(units, where, example_inputs=image()), image()
    y = net(x)
    for unit in net:
        unit.fuse()
    torch.testing.assert_close(net(x), y, rtol=1e-4, atol=1e-5)
    assert len(installed_eca(net).entries) == 2
    assert "0.conv.eca.conv.weight" in net.state_dict()
    torch.testing.assert_close(copy.deepcopy(net)(x), y, rtol=1e-4, atol=1e-5)
    assert not any("eca" in name for name in remove_eca(net).state_dict())


def test_a_gate_behind_a_convolution_does_not_fold():
    """Norm of gate is not gate of norm."""
    net = gated(units, "conv")
    with pytest.raises(UnsupportedModelError, match="norm that is folded must follow a convolution without"):
        net[0].fuse()


def test_a_norm_without_a_convolution_before_it_cannot_be_deleted():
    net = gated(lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), "norm")
    with pytest.raises(UnsupportedModelError, match=r"0, a BatchNorm2d without such.*Call remove_eca first"):
        del net[0]
    with pytest.raises(UnsupportedModelError, match="norm that is deleted"):
        net.register_module("0", None)
    assert type(remove_eca(net)._modules) is dict
    del net[0]


class Frozen(nn.Module):
    """A norm of another library, made out of a BatchNorm2d."""

    def __init__(self, norm):
        super().__init__()
        self.norm = copy.deepcopy(norm)

    def forward(self, x):
        scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
        bias = self.norm.bias - self.norm.running_mean * scale
        return x * scale[:, None, None] + bias[:, None, None]


@pytest.mark.parametrize("way", [setattr, nn.Module.add_module, lambda m, name, new: m._modules.update({name: new})])
def test_a_norm_that_is_exchanged_leaves_its_gate_to_the_new_one(way):
    net, x = gated(), image()
    y = net(x)
    for block in net.blocks:
        plain = remove_eca(nn.Sequential(copy.deepcopy(block.bn2)))[0]
        if way in (setattr, nn.Module.add_module):
            way(block, "bn2", Frozen(plain))
        else:
            block._modules["bn2"] = Frozen(plain)
    torch.testing.assert_close(net(x), y, rtol=1e-4, atol=1e-5)
    assert installed_eca(net).paths == installed_eca(gated()).paths


def test_a_wrapper_around_a_site_and_a_move_are_no_exchange():
    net, x = gated(lambda: nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU()), ["1"]), image()
    y = net(x)
    net.insert(0, nn.Identity())
    assert torch.equal(net(x), y)
    net[2] = nn.Sequential(net[2])
    assert torch.equal(net(x), y)
    assert len(eca_state(net)) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch.ao is to go
def test_dynamic_quantisation_keeps_the_gate():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(8, 8)

        def forward(self, x):
            return self.line(x)

    net, x = Rows().eval(), 3 * torch.rand(2, 5, 6, 8)
    trained(insert_eca(net, ["line"], example_inputs=x))
    small = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    assert type(small.line) is not nn.Linear
    torch.testing.assert_close(small(x), net(x), rtol=0.1, atol=0.1)
    assert (small(x) - remove_eca(net)(x)).abs().max() > 0.3


def test_eager_fusing_says_that_it_cannot_take_a_gate():
    net = gated(units, "norm")
    with pytest.raises(AssertionError, match="did not find fuser method"):  # torch.ao's own
        torch.ao.quantization.fuse_modules(net, ["0.conv", "0.bn"])(image())


# --- where no gate can stand ------------------------------------------------------------------------------------------


class Branches(nn.Sequential):
    def forward(self, x):
        return torch.cat([branch(x) for branch in self], 1)


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = conv(3, 3)

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


class Taken(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv(3, 3)
        self.eca = nn.Identity()

    def forward(self, x):
        return self.eca(self.conv(x))


class Rep(nn.Module):
    """Two branches that become one convolution, each a block with a norm inside."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Unit(3, 8), Unit(3, 8)

    def forward(self, x):
        return self.first(x) + self.second(x)

    def fuse(self):
        del self.first


class Deployed(Rep):
    def switch_to_deploy(self):
        pass


@pytest.mark.parametrize(("kind", "method"), [(Rep, "fuse"), (Deployed, "switch_to_deploy")])
def test_branches_that_are_merged_have_no_gates_inside(kind, method):
    net = nn.Sequential(kind(), Unit(8, 8))
    plan = plan_eca(net, "conv_norm", example_inputs=image())
    assert plan.paths == ("1.bn",)
    assert [one.reason for one in plan.skipped] == [
        f"inside of 0, a {kind.__name__}, whose {method} merges its layers: name 0 itself"
    ] * 2
    assert plan_eca(net, ["0"], example_inputs=image()).paths == ("0",)


class FoldsNorm(nn.Module):
    """A residual block whose norm goes into the convolution behind it (NextViT)."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, bias=False)

    def forward(self, x):
        return x + self.conv(self.norm(x))

    @torch.no_grad()
    def reparameterize(self):
        scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
        shift = self.norm.bias - self.norm.running_mean * scale
        self.conv.bias = nn.Parameter(self.conv.weight.sum((2, 3)) @ shift)
        self.conv.weight.mul_(scale[:, None, None])
        self.norm = nn.Identity()


def test_a_block_that_folds_its_norm_alone_keeps_a_gate_at_its_end():
    net = randomised(nn.Sequential(conv(3, 8), FoldsNorm()))
    with pytest.raises(NoSiteError, match="a FoldsNorm, whose reparameterize merges its layers"):
        plan_eca(net, "norm", example_inputs=image())
    assert plan_eca(net, example_inputs=image()).paths == ("1.conv",)
    plain = net(image())
    net = trained(insert_eca(net))
    before = net(image())
    assert not torch.allclose(before, plain, atol=1e-3)
    net[1].reparameterize()
    torch.testing.assert_close(net(image()), before)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branches(conv(3, 3), conv(3, 3)), "runs over its children"),
        (Loop(), "runs over its children"),
        (Taken(), "an attribute `eca` of its own"),
        (torch.jit.script(nn.Conv2d(3, 3, 1)), "compiled by TorchScript"),
    ],
    ids=["sequential", "loop", "taken", "scripted"],
)
def test_a_module_that_cannot_have_a_child_is_refused(module, message):
    net = nn.Sequential(module)
    with pytest.raises(NoSiteError, match=message):
        plan_eca(net, ["0"], kernel_size=3)


def test_loading_the_base_of_a_network_that_was_folded():
    net = gated(units, "norm", example_inputs=image())
    for unit in net:
        unit.fuse()
    load_base_state(net, base_state(net))
    assert not any(kernel.any() for kernel in eca_parameters(net))


def test_a_block_of_a_network_alone():
    """A part of a network is used and copied without the whole."""
    block = gated(lambda: Net(Basic(8, 8), o=8)).blocks[0]
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(copy.deepcopy(block)(x), block(x))
