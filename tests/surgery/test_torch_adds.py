"""Every add of a torch network has a site or a reason: each way to add as a small block, with and without inputs."""

import pytest
import torch
from torch import nn

from eca_multi.surgery import reasons
from eca_multi.surgery.errors import NoSiteError
from eca_multi.surgery.plan import ECAPlan
from eca_multi.torch import eca_parameters, infer_plan, insert_eca, installed_eca, plan_eca, remove_eca
from tests.support.networks_torch import MINIATURES, Basic, Net, randomised
from tests.support.networks_torch_adds import (
    Anchors,
    ByModule,
    Closed,
    DualPath,
    Encoder,
    FeaturePyramid,
    GatedCopy,
    GatedTwice,
    Ghost,
    GivenInBlock,
    HighResolution,
    InlineSqueeze,
    LayerScale,
    LinkNet,
    MapAmongTokens,
    MobileOne,
    OptionA,
    Padded,
    PooledBranch,
    Positions,
    PreActivationUnit,
    Pyramid,
    Repeated,
    RepVGG,
    ScaledShortcut,
    ShakeShake,
    SliceInPlace,
    SliceThenJoin,
    SpatialGate,
    TakesTupleOfOne,
    Tokens,
    TwoScales,
    Windows,
)
from tests.support.surgery_torch import copied, image, same_state

RESIDUAL = {
    "slice, joined": (lambda: SliceThenJoin(8), 16, "body.4"),
    "slice, in place": (lambda: SliceInPlace(8), 16, "body.4"),
    "dual path": (lambda: DualPath(8), 24, "body.4"),
    "tuple": (lambda: PreActivationUnit(8, 8), 8, "body.second.conv"),
    "tuple, projected": (lambda: PreActivationUnit(8, 16), 16, "body.second.conv"),
    "tuple of one": (lambda: TakesTupleOfOne(8), 8, "branch.body.4"),
    "padded": (lambda: Padded(8, 12), 12, "body.4"),
    "padded and pooled": (lambda: Padded(8, 12, 2), 12, "body.4"),
    "option A": (lambda: OptionA(8, 16, 2), 16, "body.4"),
    "repeated": (lambda: Repeated(8, 16), 16, "bn"),
    "add by a module": (lambda: ByModule(8), 8, "body.4"),
    "inline gate": (lambda: InlineSqueeze(8), 8, "body.4"),
    "shortcut handed in": (lambda: GivenInBlock(8), 8, "block.body.4"),
    "two scales": (lambda: TwoScales(8), 8, "last"),
    "scaled shortcut": (lambda: ScaledShortcut(8), 8, "body.4"),
    "layer scale": (lambda: Closed(8, LayerScale(8)), 8, "last"),
    "ghost": (lambda: Closed(8, Ghost(8)), 8, "last"),
    "spatial gate": (lambda: Closed(8, SpatialGate()), 8, "last"),
    "reshaped": (lambda: Tokens(MapAmongTokens(8)), 8, "block.modulation"),
}
NEEDS_A_RUN = {"slice, in place", "ghost", "reshaped", "tuple of one"}
NO_BRANCH = {
    "RepVGG": (lambda: RepVGG(8), reasons.PARALLEL, 2),
    "MobileOne": (lambda: MobileOne(8), reasons.PARALLEL, 3),
    "shake-shake": (lambda: ShakeShake(8), reasons.PARALLEL, 2),
    "LinkNet": (lambda: LinkNet(8), reasons.MERGE, 1),
    "pyramid": (lambda: Pyramid(8), reasons.MERGE, 1),
    "HRNet": (lambda: HighResolution(8), reasons.DIFFERENT_ORIGIN, 1),
    "gated copy": (lambda: GatedCopy(8), reasons.GATED_COPY, 1),
    "gated twice": (lambda: GatedTwice(8), reasons.GATED_COPY, 1),
    "pool": (lambda: PooledBranch(8), reasons.POOLED, 1),
    "no convolution": (lambda: Positions(8), reasons.NO_CONVOLUTION, 1),
}


@pytest.mark.parametrize("inputs", [None, "image"])
@pytest.mark.parametrize("name", RESIDUAL)
def test_the_branch_is_followed_to_its_module(name, inputs):
    make, channels, site = RESIDUAL[name]
    net = randomised(Net(Basic(8, 8), make(), o=channels))
    plan = plan_eca(net, example_inputs=inputs and image())
    is_found = inputs or name not in NEEDS_A_RUN
    assert list(plan.paths) == ["blocks.0.bn2", f"blocks.1.{site}"][: 1 + bool(is_found)]
    if not is_found:
        assert "example_inputs" in str(plan)
        assert "blocks.1" in str(plan)


@pytest.mark.parametrize("name", RESIDUAL)
def test_the_gate_keeps_the_function_and_learns(name):
    make, channels, _ = RESIDUAL[name]
    net, x = randomised(Net(make(), o=channels)), image()
    before, state = net(x), copied(net)
    insert_eca(net, example_inputs=x)
    assert torch.equal(net(x), before)
    net(x).square().sum().backward()
    assert all(kernel.grad.abs().sum() > 0 for kernel in eca_parameters(net))
    remove_eca(net)
    assert same_state(net, state)


@pytest.mark.parametrize("inputs", [None, "image"])
@pytest.mark.parametrize("name", NO_BRANCH)
def test_an_add_without_a_branch_has_its_place_and_its_reason(name, inputs):
    make, reason, count = NO_BRANCH[name]
    net = randomised(Net(Basic(8, 8), make(), o=8))
    plan = plan_eca(net, example_inputs=inputs and image())
    if name == "HRNet" and inputs is None:
        assert "adds may hide in blocks.1.fusion" in str(plan)
        return
    assert plan.paths == ("blocks.0.bn2",)
    assert [add.reason for add in plan.skipped_adds] == [reason] * count
    assert {add.path for add in plan.skipped_adds} == {"blocks.1.fusion" if name == "HRNet" else "blocks.1"}
    assert all(add.line.startswith("tests.support.networks_torch_adds:") for add in plan.skipped_adds)
    assert reason in str(plan)
    assert ECAPlan.from_json(plan.to_json()).to_json() == plan.to_json()


@pytest.mark.parametrize("inputs", [None, "image"])
def test_a_branch_of_windows_is_no_branch_of_the_image(inputs):
    plan = plan_eca(randomised(Net(Basic(8, 8), Tokens(Windows(8)), o=8)), example_inputs=inputs and image())
    assert plan.paths == ("blocks.0.bn2",)
    assert [add.reason for add in plan.skipped_adds] == [reasons.NO_MODULE.format("a map put together from windows")]


@pytest.mark.parametrize("inputs", [None, "image"])
def test_a_pyramid_whose_convolutions_are_elsewhere_is_a_merge(inputs):
    plan = plan_eca(randomised(Net(Basic(8, 8), FeaturePyramid(8), o=8)), example_inputs=inputs and image())
    assert plan.paths == ("blocks.0.bn2",)
    assert [(add.path, add.reason) for add in plan.skipped_adds] == [("blocks.1.merge", reasons.MERGE)]


OFFSETS = {
    "type_as": lambda x: torch.arange(1.0, dtype=torch.float64).type_as(x) + 0.5,
    "ones_like": lambda x: torch.ones_like(x),
    "new_full": lambda x: x.new_full((1, 1), 2.0),
    "expand_as": lambda x: torch.ones(1).expand_as(x),
}


@pytest.mark.parametrize("inputs", [None, "image"])
@pytest.mark.parametrize("name", OFFSETS)
def test_numbers_that_take_the_type_or_the_size_of_an_input_are_no_shortcut(name, inputs):
    net = randomised(Net(Basic(8, 8), Anchors(8, OFFSETS[name]), o=8))
    plan = plan_eca(net, example_inputs=inputs and image())
    assert (plan.paths, plan.skipped) == (("blocks.0.bn2",), ())


@pytest.mark.parametrize("inputs", [None, "image"])
def test_an_input_of_another_type_is_a_shortcut(inputs):
    net = randomised(Net(Anchors(8, lambda x: x.type_as(torch.zeros(1))), o=8))
    assert plan_eca(net, example_inputs=inputs and image()).paths == ("blocks.0.body.4",)


@pytest.mark.parametrize("name", ["RepVGG", "MobileOne", "shake-shake"])
def test_the_output_of_a_block_of_parallel_branches_can_be_gated(name):
    net, x = randomised(Net(NO_BRANCH[name][0](), NO_BRANCH[name][0](), o=8)), image()
    with pytest.raises(NoSiteError, match=r"parallel branches.*where='block'"):
        plan_eca(net)
    before = net(x)
    plan = plan_eca(net, "block", example_inputs=x)
    assert plan.paths == ("blocks.0", "blocks.1")
    insert_eca(net, plan=plan, example_inputs=x)
    assert torch.equal(net(x), before)
    net(x).square().sum().backward()
    assert all(kernel.grad.abs().sum() > 0 for kernel in eca_parameters(net))


def test_one_unusable_candidate_leaves_the_others():
    net = randomised(Net(Basic(8, 8), Closed(8, Ghost(8)), Basic(8, 8), o=8))
    plan = plan_eca(net)
    assert plan.paths == ("blocks.0.bn2", "blocks.2.bn2")
    assert [one.path for one in plan.skipped] == ["blocks.1.last"]


def test_a_block_that_is_never_called_is_no_site():
    net = randomised(Net(Encoder(8), o=8))
    for inputs in (None, image()):
        plan = plan_eca(net, example_inputs=inputs)
        assert [path.split(".")[2] for path in plan.paths] == ["stage1"]
        assert all("never called" in one.reason for one in plan.skipped)
        assert [one.path.split(".")[2] for one in plan.skipped] == ["stage2"]


class Nested(nn.Module):
    """Adds itself, before and after its children do: the order of the adds is not that of the modules."""

    def __init__(self):
        super().__init__()
        self.last = Basic(8, 8)
        self.first = Basic(8, 8)
        self.head = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = x + self.first(x)
        return x + self.head(self.last(x))


ORDERS = {name: make for name, (make, _) in MINIATURES.items()} | {
    "nested": lambda: Net(Nested(), Basic(8, 8), o=8),
    "tuple": lambda: Net(PreActivationUnit(8, 16), Padded(16, 20), o=20),
    "shared": lambda: (lambda block: Net(block, Basic(8, 8), block, o=8))(Basic(8, 8)),
}


@pytest.mark.parametrize("name", ORDERS)
def test_paths_come_in_one_order(name):
    plan = plan_eca(randomised(ORDERS[name]()))
    assert (
        list(plan.paths)
        == [p for p, _ in ORDERS[name]().named_modules(remove_duplicate=False) if p in plan.paths][: len(plan.paths)]
    )
    net = insert_eca(ORDERS[name](), plan=plan)
    assert installed_eca(net).paths == plan.paths
    assert installed_eca(net) == plan
    read_back = infer_plan(ORDERS[name](), net.state_dict())
    assert read_back.paths == plan.paths
    assert read_back == plan
    assert plan_eca(randomised(ORDERS[name]()), example_inputs=image()).paths == plan.paths


class TwoOfThem(nn.Module):
    """Returns two tensors, and adds itself."""

    def __init__(self):
        super().__init__()
        self.block = Basic(8, 8)

    def forward(self, x):
        y = self.block(x)
        return y, x


class CallsTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.conv = TwoOfThem(), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y, x = self.inner(x)
        return self.conv(y) + x


def test_an_add_inside_of_a_module_that_returns_two_tensors_counts_once():
    for inputs in (None, image()):
        plan = plan_eca(randomised(Net(CallsTwo(), o=8)), example_inputs=inputs)
        assert plan.paths == ("blocks.0.inner.block.bn2", "blocks.0.conv")
        assert plan.skipped == ()
