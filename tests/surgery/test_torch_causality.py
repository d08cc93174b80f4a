"""Surgery keeps a torch network causal, and its frames apart: what is refused, the remedy, and what training brings."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eca_multi.surgery.causal_probe import Outcome, probe
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import CausalityError
from eca_multi.surgery.plan import ECAPlan
from eca_multi.torch import eca_state, infer_plan, insert_eca, installed_eca, plan_eca, remove_eca
from tests.support import causal_torch as nets
from tests.support.networks_torch import resnet
from tests.support.surgery_torch import same_state


@dataclass(frozen=True, eq=False)
class Case:
    """A network, its input, where ECA goes, the axis of the input that time lies along, and what is refused."""

    net: Any
    shape: tuple[int, ...]
    where: Any
    axis: int
    refused: str
    remedy: dict[str, Any]

    def made(self):
        torch.manual_seed(3)
        return self.net().eval()

    @property
    def x(self):
        return torch.from_numpy(np.random.default_rng(4).normal(size=self.shape).astype(np.float32))


CASES = {
    "tcn": Case(
        nets.tcn, (2, 3, 11), "norm", 2, r"ECA at \{0-1\}.norm .*axis 2.*Chomp1d at 0.chomp", {"causal_axis": 2}
    ),
    "wavenet": Case(
        nets.WaveNet, (2, 2, 13), "conv", 2, r"ECA at stem, .*F.pad\(x, \(1, 0\)\) at layers.0", {"causal_axis": 2}
    ),
    "left-padded": Case(nets.LeftPadded, (2, 3, 9), "conv", 2, r"ECA at first, last .*in a run", {"causal_axis": 2}),
    "frames-3d": Case(
        nets.frames_3d, (1, 3, 5, 6, 7), "norm", 2, r"ECA at 1.norm .*one frame into another.*axis 2",
        {"pool_axes": (3, 4)},
    ),
    "causal-3d": Case(
        nets.Causal3d, (1, 3, 5, 6, 7), "conv", 2, r"ECA at first, second .*axis 2", {"causal_axis": 2}
    ),
}  # fmt: skip
cases = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])


def trained(net, x, steps=20):
    """Train every weight, so that the kernels leave the identity."""
    torch.manual_seed(5)
    target = torch.randn_like(net(x))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x) - target).square().mean().backward()
        optimizer.step()
    assert any(kernel.abs().max() > 0 for kernel in eca_state(net).values())  # WaveNet's last one reaches no output
    return net.eval()


def evidence(net, x):
    """What the probe finds of a network by itself, with its output as the site."""

    def run(inputs, paths):
        with torch.no_grad():
            y = net(torch.from_numpy(inputs[0])).numpy()
        return Outcome([y], {path: y for path in paths})

    return probe(run, [x.numpy()], run([x.numpy()], []).outputs, [ECAEntry("output")]).evidence


def leaks(net, x, axis):
    """How far outputs before the last position move when it changes, and whether the last one moves at all."""
    changed = x.clone()
    changed.select(axis, -1).add_(10 * torch.randn_like(x.select(axis, -1)))
    with torch.no_grad():
        moved = (net(changed) - net(x)).abs()
    length = moved.shape[axis]
    return float(moved.narrow(axis, 0, length - 1).max()), float(moved.select(axis, -1).max())


@cases
def test_plain_eca_is_refused_with_the_sites_and_the_remedy(case):
    net = case.made()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    plan = plan_eca(net, case.where, example_inputs=case.x)
    written = ", ".join(f"{name}={value}" for name, value in case.remedy.items())
    assert f"Pass {written}; keep_causality=False inserts" in str(plan)
    for options in ({}, {"verify": False}, {"inplace": False}):
        with pytest.raises(CausalityError, match=case.refused) as caught:
            insert_eca(net, case.where, example_inputs=case.x, **options)
        assert f"Pass {written}; keep_causality=False inserts" in str(caught.value)
    with pytest.raises(CausalityError, match=case.refused):
        insert_eca(net, plan=ECAPlan.from_json(plan.to_json()))
    assert same_state(net, state)
    assert installed_eca(net).paths == ()


@cases
def test_with_the_remedy_training_brings_no_leak(case):
    net = insert_eca(case.made(), case.where, example_inputs=case.x, **case.remedy)
    assert evidence(net, case.x)
    net = trained(net, case.x)
    assert evidence(net, case.x)
    before, last = leaks(net, case.x, case.axis)
    assert before <= 1e-5 * last


@cases
def test_the_control_leaks_once_it_is_trained(case):
    net = insert_eca(case.made(), case.where, example_inputs=case.x, keep_causality=False)
    assert evidence(net, case.x)  # the identity start hides the leak
    net = trained(net, case.x)
    assert not evidence(net, case.x)
    before, last = leaks(net, case.x, case.axis)
    assert before > 1e-3 * last


def test_frames_in_the_batch_stay_apart_by_themselves():
    net, x = nets.FramesInBatch().eval(), torch.randn(2, 4, 3, 6, 6)
    plan = plan_eca(net, example_inputs=x)
    assert plan.paths == ("norm",)
    assert plan.evidence == ()
    net = trained(insert_eca(net, example_inputs=x), x)
    changed = x.clone()
    changed[:, 1] += 1
    moved = (net(changed) - net(x)).abs().detach()
    assert moved[:, [0, 2, 3]].max() == 0
    assert moved[:, 1].max() > 0


ORDINARY = {
    "resnet": (resnet, (2, 3, 16, 16)),
    "unet": (nets.UNet, (2, 3, 8, 8)),
    "bidirectional": (nets.Speech, (2, 3, 9)),
    "convolution-and-lstm": (lambda: nets.Speech(3, False), (2, 3, 9)),
    "plain-1d": (nets.plain_1d, (2, 3, 9)),
    "pointwise": (nets.pointwise, (2, 3, 5, 6)),
    "valid": (nets.valid_image, (2, 3, 8, 9)),
    "patches": (nets.patches, (2, 3, 8)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_no_alarm_for_ordinary_networks(name):
    make, shape = ORDINARY[name]
    net, x = make().eval(), torch.randn(shape)
    for inputs in (x, None):
        assert plan_eca(net, "conv", example_inputs=inputs, overrides=None).evidence == ()
    insert_eca(net, "conv", example_inputs=x)


def test_a_recurrent_network_runs_one_way():
    with pytest.raises(CausalityError, match=r"ECA at conv .*axis 2.*LSTM at rnn"):
        insert_eca(nets.Speech(1, False), "conv")
    with pytest.raises(CausalityError, match="LSTM at rnn; in a run"):
        insert_eca(nets.Speech(1, False), "conv", example_inputs=torch.randn(1, 3, 8))


def test_modules_tell_without_a_run():
    with pytest.raises(CausalityError, match=r"Chomp1d at 0.chomp and 1 more"):
        insert_eca(nets.tcn(), "norm")
    assert insert_eca(nets.tcn(), "norm", causal_axis=2)
    padded = nn.Sequential(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(3, 4, 3))
    with pytest.raises(CausalityError, match=r"ConstantPad1d\(2, 0\) at 0"):
        insert_eca(padded, "conv")
    both = nn.Sequential(nn.ConstantPad1d((1, 1), 0.0), nn.Conv1d(3, 4, 3))
    assert insert_eca(both, "conv")


def shown(net, inputs, where="conv"):
    """The sites of a plan's evidence of a causal order."""
    return [one.sites for one in plan_eca(net.eval(), where, example_inputs=inputs).evidence if one.how == "causal"]


def test_only_the_sites_that_reach_the_causal_output_count():
    trunk = tuple(f"trunk.{path}" for path in ("0.conv", "0.skip", "1.conv", "1.skip", "2"))
    assert shown(nets.WithHead(), ([torch.randn(2, 3, 9)], True)) == [trunk]
    assert shown(nets.WithHead(), {"xs": [torch.randn(2, 3, 9)]}) == [trunk]
    tokens = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(1))
    assert shown(nets.Translator(), (tokens, tokens.flip(1))) == [("decode",)]


def test_an_order_from_pixel_to_pixel_has_no_axis():
    """No mean of ours keeps it: along the rows, it would carry the end of a row into the row's start."""
    x = torch.randn(2, 1, 6, 7)
    for options in ({}, {"causal_axis": 2}, {"pool_axes": 3}):
        with pytest.raises(CausalityError, match=r"an order that no single axis there holds.*Leave 1 out with exclude"):
            insert_eca(nets.pixelcnn(), "norm", example_inputs=x, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_probed(dtype):
    net = nets.WaveNet().to(dtype)
    assert len(shown(net, torch.randn(2, 2, 13, dtype=dtype))) == 1
    assert shown(nets.plain_1d().to(dtype), torch.randn(2, 3, 9, dtype=dtype)) == []


def test_a_path_that_starts_as_nothing_counts():
    """A temporal convolution that starts at 0 hides that frames are mixed, as ECA's start hides a leak."""
    x = torch.randn(1, 3, 5, 6, 7)
    assert plan_eca(nets.LaterFrames().eval(), "conv", example_inputs=x).evidence == ()
    frozen = nets.LaterFrames().eval()
    frozen.mix.requires_grad_(False)  # it stays at 0
    assert plan_eca(frozen, "conv", example_inputs=x).evidence != ()


def test_a_probe_that_fails_is_noted():
    plan = plan_eca(nets.Fixed(), "conv", example_inputs=torch.randn(1, 3, 8))
    assert any(note.endswith("it raises RuntimeError: the table has no such key") for note in plan.notes)
    assert insert_eca(nets.Fixed(), plan=plan)


def test_a_run_overrules_what_a_plan_says():
    """The plan of a network that pads in front elsewhere, on a network that looks ahead as well."""
    refused = plan_eca(nets.tcn(), "norm")
    net = nets.tcn()
    net[2] = nn.Conv1d(8, 5, 3, padding=1)
    with pytest.raises(CausalityError, match="Chomp1d"):
        insert_eca(net, plan=refused)
    assert insert_eca(net, plan=refused, example_inputs=torch.randn(2, 3, 9))


def test_a_few_runs_are_enough():
    """An ordinary network runs once more for each axis that an output shares with an input, a classifier never."""
    runs = []
    net = nets.UNet().eval()
    net.register_forward_hook(lambda *_: runs.append(1))
    plan_eca(net, "conv", example_inputs=torch.randn(1, 3, 8, 8), keep_causality=False)
    alone = len(runs)
    plan_eca(net, "conv", example_inputs=torch.randn(1, 3, 8, 8))
    assert len(runs) - 2 * alone <= 4


def test_the_probe_leaves_the_network_and_the_random_numbers():
    net, x = nets.tcn().train(), torch.randn(2, 3, 11)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.random.get_rng_state()
    plan_eca(net, "norm", example_inputs=x)
    assert same_state(net, state)
    assert net.training
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(module._forward_hooks for module in net.modules())


# --- the options in the network ---------------------------------------------------------------------------------------


def test_the_options_are_read_back_copied_and_removed():
    case = CASES["frames-3d"]
    plan = plan_eca(case.made(), "norm", pool_axes=(3, 4), causal_axis=None, example_inputs=case.x)
    net = insert_eca(case.made(), plan=plan)
    layer = net.get_submodule("1.norm.eca")
    assert layer.pool_axes == (3, 4)
    for other in (net, copy.deepcopy(net)):
        assert installed_eca(other) == plan
    state = net.state_dict()
    assert infer_plan(case.made(), state, pool_axes=(3, 4)) == plan
    assert infer_plan(case.made(), state) != plan
    with pytest.raises(CausalityError, match="one frame into another"):
        insert_eca(case.made(), plan=infer_plan(case.made(), state), example_inputs=case.x)
    assert remove_eca(net)(case.x).equal(case.made()(case.x))


def test_a_plan_that_insists_goes_on_to_insist():
    plan = plan_eca(nets.tcn(), "norm", keep_causality=False)
    plan = ECAPlan.from_json(plan.to_json())
    assert not plan.keep_causality
    assert installed_eca(insert_eca(nets.tcn(), plan=plan)) == plan
    refused = plan_eca(nets.tcn(), "norm")
    with pytest.raises(CausalityError, match="Pass causal_axis=2"):
        insert_eca(nets.tcn(), plan=refused)
    assert insert_eca(nets.tcn(), plan=refused, keep_causality=False)


def test_a_site_may_have_options_of_its_own():
    net = insert_eca(nets.tcn(), "norm", causal_axis=2, overrides={"1.norm": {"causal_axis": -1}})
    assert net.get_submodule("0.norm.eca").causal_axis == 2
    assert net.get_submodule("1.norm.eca").causal_axis == -1
    with pytest.raises(CausalityError, match=r"ECA at 0.norm .*overrides=\{pattern: \{'causal_axis': 2\}\} for 0.norm"):
        insert_eca(nets.tcn(), "norm", overrides={"1.norm": {"causal_axis": 2}})


def test_an_axis_that_a_site_lacks_is_named():
    with pytest.raises(
        ValueError, match=r"causal_axis must be in \[-3, 3\) for rank 3.*'0.norm' has rank 3.*overrides"
    ):
        insert_eca(nets.tcn(), "norm", causal_axis=3, example_inputs=torch.randn(1, 3, 9))
