"""ECA into torch networks: where it goes, that nothing is lost, and that it comes out again."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parameter import is_lazy

from eca_multi.surgery.candidate import HAS_ECA
from eca_multi.surgery.errors import (
    ChannelInferenceError,
    NoSiteError,
    PlanMismatchError,
    UnsupportedModelError,
    VerifyError,
)
from eca_multi.surgery.plan import ECAPlan
from eca_multi.torch import (
    ECA,
    base_state,
    eca_parameters,
    eca_state,
    freeze_except_eca,
    infer_plan,
    insert_eca,
    installed_eca,
    load_base_state,
    load_eca_state,
    plan_eca,
    remove_eca,
)
from eca_multi.torch._unchanged import _random_states
from tests.support.networks_torch import (
    MINIATURES,
    Basic,
    Bottleneck,
    Dense,
    Hidden,
    InvertedResidual,
    MBConv,
    Net,
    Shared,
    Squeeze,
    Untraceable,
    classifier,
    randomised,
    resnet,
    spatial,
)


def image(seed=1, n=2, size=12):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def copied(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same_state(net, state):
    own = net.state_dict()
    return list(own) == list(state) and all(torch.equal(own[name], state[name]) for name in own)


# --- where it goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [None, "image"])
@pytest.mark.parametrize("name", MINIATURES)
def test_residual_branches_are_found_by_data_flow(name, inputs):
    make, paths = MINIATURES[name]
    assert list(plan_eca(randomised(make()), example_inputs=inputs and image()).paths) == paths


@pytest.mark.parametrize("name", MINIATURES)
def test_outputs_stay_bit_equal_gradients_arrive_and_removal_undoes(name):
    net, x = randomised(MINIATURES[name][0]()), image()
    before, state = net(x), copied(net)
    modules = list(net.modules())
    insert_eca(net, verify=True, example_inputs=x)
    assert torch.equal(net(x), before)
    net(x).square().sum().backward()
    assert all(kernel.grad.abs().sum() > 0 for kernel in eca_parameters(net))
    with torch.no_grad():
        for kernel in eca_parameters(net):
            nn.init.normal_(kernel)
        assert (net(x) - before).norm() > 1e-3 * before.norm()
    remove_eca(net)
    assert same_state(net, state)
    assert all(one is other for one, other in zip(net.modules(), modules, strict=True))


@pytest.mark.parametrize("dims", [1, 3])
def test_networks_of_other_dimensions(dims):
    net = randomised(spatial(dims))
    x = torch.randn(2, 2, *[6] * dims)
    before = net(x)
    assert plan_eca(net).paths == ("1.norm", "2.norm")
    assert torch.equal(insert_eca(net, example_inputs=x)(x), before)


def test_a_gate_in_a_block_with_the_channels_last():
    entry = plan_eca(randomised(MINIATURES["ConvNeXt"][0]())).entries[0]
    assert entry.layout == "channels_last"
    assert entry.notes == ("before the layer scale",)


@pytest.mark.parametrize(
    ("where", "make", "paths"),
    [
        (
            "block",
            lambda: Net(InvertedResidual(8, 16), InvertedResidual(16, 16)),
            ["blocks.0.conv.3", "blocks.1.conv.3"],
        ),
        ("conv", lambda: Net(Basic(8, 8), o=8), ["stem", "blocks.0.conv1", "blocks.0.conv2"]),
        ("norm", lambda: Net(Basic(8, 8), o=8), ["blocks.0.bn1", "blocks.0.bn2"]),
        ("conv_norm", lambda: Net(Basic(8, 8), o=8), ["stem", "blocks.0.bn1", "blocks.0.bn2"]),
        ("conv_norm", lambda: Net(Untraceable(8), o=8), ["stem", "blocks.0.bn"]),
        ("se", lambda: Net(MBConv(8), MBConv(8), o=8), ["blocks.0.se", "blocks.1.se"]),
        (["blocks.1.relu"], resnet, ["blocks.1.relu"]),
        (lambda path, module: isinstance(module, nn.ReLU) and "3" in path, resnet, ["blocks.3.relu"]),
    ],
    ids=["block", "conv", "norm", "conv_norm", "conv_norm, not traced", "se", "paths", "callable"],
)
def test_other_places(where, make, paths):
    assert list(plan_eca(randomised(make()), where, example_inputs=image()).paths) == paths


def test_a_convolution_before_a_norm_is_warned_of():
    notes = [entry.notes for entry in plan_eca(resnet(), "conv").entries]
    assert notes[0] == ()
    assert "before a norm" in notes[1][0]


def test_a_network_that_cannot_be_traced_is_run():
    net, x = randomised(Net(Untraceable(8), o=8)), image()
    with pytest.raises(UnsupportedModelError, match=r"torch.fx cannot trace blocks.0 .*Pass example_inputs"):
        plan_eca(net)
    entry = plan_eca(net, example_inputs=x).entries[0]
    assert (entry.path, entry.notes) == ("blocks.0.bn", ("found by a run",))


def test_an_se_block_is_replaced():
    net, x = randomised(Net(MBConv(8), o=8)), image()
    plan = plan_eca(net, "se")
    assert not plan.keeps_output
    assert plan.entries[0].notes == ("replaces an SE block: its 82 parameters are dropped",)
    insert_eca(net, plan=plan, example_inputs=x)
    assert type(net.blocks[0].se) is ECA
    assert net(x).shape == (2, 5)
    with pytest.raises(UnsupportedModelError, match=r"ECA in the place of blocks.0.se, whose weights"):
        remove_eca(net)


class Slotted(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)
        self.se = None
        self.attn = nn.Identity()

    def forward(self, x):
        out = self.attn(self.bn(self.conv(x)))
        out = self.se(out) if self.se is not None else out
        return x + out


def test_empty_slots_are_filled_under_their_names():
    net, x = randomised(Net(Slotted(8), o=8)), image()
    before, state = net(x), copied(net)
    insert_eca(net, "slot", example_inputs=x)
    assert torch.equal(net(x), before)
    assert {"blocks.0.se.conv.weight", "blocks.0.attn.conv.weight"} == set(eca_state(net))
    assert {entry.action for entry in installed_eca(net).entries} == {"fill"}
    again = insert_eca(Net(Slotted(8), o=8), plan=infer_plan(Net(Slotted(8), o=8), net.state_dict()))
    again.load_state_dict(net.state_dict())
    remove_eca(net)
    assert net.blocks[0].se is None
    assert type(net.blocks[0].attn) is nn.Identity
    assert same_state(net, state)


def test_the_plan_changes_nothing():
    net = randomised(resnet()).train()
    net.blocks[0].eval()
    state, flags, random = copied(net), [m.training for m in net.modules()], torch.get_rng_state()
    text = repr(net)
    plan_eca(net, example_inputs=image())
    assert same_state(net, state)
    assert [m.training for m in net.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert repr(net) == text
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_insertion_draws_no_random_number_and_keeps_the_flags():
    net = resnet().train()
    net.blocks[1].eval()
    random = torch.get_rng_state()
    insert_eca(net)
    assert torch.equal(torch.get_rng_state(), random)
    assert [net.blocks[i].bn2.training for i in (0, 1)] == [True, False]
    assert [net.blocks[i].bn2.eca.training for i in (0, 1)] == [True, False]


def test_a_second_call_does_not_nest():
    net = insert_eca(resnet())
    names = list(net.state_dict())
    insert_eca(net)
    assert list(net.state_dict()) == names
    assert {one.reason for one in plan_eca(net).skipped} == {HAS_ECA}
    insert_eca(net, "norm")
    assert len(installed_eca(net).entries) == 9


def test_a_shared_module_has_one_eca():
    net, x = randomised(Shared()), image()
    before = net(x)
    entry = plan_eca(net, "norm").entries[0]
    assert (entry.path, entry.aliases) == ("norm", ("again",))
    insert_eca(net, "norm", example_inputs=x)
    assert net.norm is net.again
    assert len(eca_parameters(net)) == 1
    assert torch.equal(net(x), before)
    remove_eca(net)
    assert net.norm is net.again


def test_a_gate_around_a_block_with_gates():
    net, x = randomised(resnet()), image()
    before, state = net(x), copied(net)
    insert_eca(net, ["blocks.0", "blocks.0.bn1"], example_inputs=x)
    assert torch.equal(net(x), before)
    assert base_state(net).keys() == state.keys()
    plan = infer_plan(resnet(), net.state_dict())
    assert set(plan.paths) == {"blocks.0", "blocks.0.bn1"}
    load_base_state(net, state)
    remove_eca(net)
    assert same_state(net, state)


# --- what is kept -----------------------------------------------------------------------------------------------------


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
    assert torch.equal(net[0].base.base.weight, state["0.base.weight"])
    net.load_state_dict(net.state_dict())
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


def test_the_old_module_is_read_and_written_through():
    net = insert_eca(resnet())
    site = net.blocks[0].bn2
    site.momentum = 0.5
    site.weight = nn.Parameter(torch.full((8,), 3.0))
    assert site.base.momentum == site.momentum == 0.5
    assert (site.base.weight == 3).all()
    assert site.num_features == 8
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = site.nothing_like_it


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


# --- errors: the model is as it was ----------------------------------------------------------------------------------


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


def test_a_call_that_passes_by_the_gate_is_found():
    net, x = Hidden(), image()
    state = copied(net)
    with pytest.raises(VerifyError, match="conv: base called 2 times, its ECA 1"):
        insert_eca(net, "conv", example_inputs=x)
    assert same_state(net, state)
    assert type(net.conv) is nn.Conv2d


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


# --- other tools ------------------------------------------------------------------------------------------------------


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


# --- on real sequences ------------------------------------------------------------------------------------------------


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
