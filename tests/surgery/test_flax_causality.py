"""Surgery keeps a Flax network causal, and its frames apart: what is refused, the remedy, and what training brings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from eca_multi.surgery.causal_probe import Outcome, probe
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import CausalityError
from eca_multi.surgery.plan import ECAPlan
from tests.support.causal_flax import build

FLAX = pytest.mark.parametrize("flax", [pytest.param("linen", marks=pytest.mark.slow), "nnx"])


@dataclass(frozen=True)
class Case:
    """Where ECA goes in a network, what is refused, and the options that help."""

    where: Any
    refused: str
    remedy: dict[str, Any]


CAUSAL = {"causal_axis": 1}
CASES = {
    "tcn": Case("residual", r"ECA at second_\{0-1\} would carry later positions .*axis 1 of \(N, \*S, C\)", CAUSAL),
    "left padded": Case("residual", "would carry later positions into earlier ones", CAUSAL),
    "first": Case("residual", "would carry later positions into earlier ones", CAUSAL),
    "wavenet": Case("conv", r"ECA at stem, .*would carry later positions into earlier ones", CAUSAL),
    "frames": Case("norm", "would carry one frame into another along axis 1", {"pool_axes": (2, 3)}),
    "causal video": Case("residual", "would carry later positions into earlier ones along axis 1", CAUSAL),
}


def each(*quick):
    """Every network in both; by default those that are named."""
    for flax in ("linen", "nnx"):
        for name in CASES:
            marks = [] if (flax, name) in quick else [pytest.mark.slow]
            yield pytest.param(flax, name, id=f"{flax}, {name}", marks=marks)


def nets(*quick):
    return pytest.mark.parametrize(("flax", "name"), list(each(*quick)))


def evidence(net):
    """What the probe finds of a network by itself, with its output as the site."""

    def run(inputs, paths):
        y = net(inputs[0])
        return Outcome([y], {path: y for path in paths})

    layout = "channels_first" if net.axis == 2 else "channels_last"
    return probe(run, [net.x], run([net.x], []).outputs, [ECAEntry("output", layout=layout)]).evidence


@nets(("linen", "tcn"), ("nnx", "frames"))
def test_plain_eca_is_refused_with_the_sites_and_the_remedy(flax, name):
    case, net = CASES[name], build(flax, name)
    written = ", ".join(f"{option}={value}" for option, value in case.remedy.items())
    plan = net.plan(case.where)
    assert f"Pass {written}; keep_causality=False inserts" in str(plan)
    for given in ({}, {"verify": False}, {"plan": ECAPlan.from_json(plan.to_json())}):
        with pytest.raises(CausalityError, match=case.refused) as caught:
            net.insert(*([] if given.get("plan") else [case.where]), **given)
        assert f"Pass {written}; keep_causality=False inserts" in str(caught.value)


@nets()
def test_with_the_remedy_training_brings_no_leak(flax, name):
    case = CASES[name]
    net = build(flax, name).insert(case.where, **case.remedy).trained()
    assert all(np.abs(kernel).max() > 1e-3 for kernel in net.kernels()[:1])
    assert name == "frames" or evidence(net)  # an output of frames alone is no map that a mean could mix
    assert net.leak() <= 1e-5


@nets()
def test_the_control_leaks_once_it_is_trained(flax, name):
    net = build(flax, name).insert(CASES[name].where, keep_causality=False)
    assert net.leak() == 0  # the identity start hides it
    net = net.trained()
    assert not evidence(net)
    assert net.leak() > 1e-3


@FLAX
@pytest.mark.parametrize("name", ["ordinary", "classifier"])
def test_no_alarm_where_nothing_would_break(flax, name):
    net = build(flax, name)
    assert net.plan().evidence == ()
    assert net.insert()  # it is not refused


def test_without_inputs_the_layers_of_nnx_tell():
    """linen's have no sites before a run."""
    with pytest.raises(CausalityError, match=r"Conv\(padding='CAUSAL'\) at stem, and no layer that looks ahead"):
        build("nnx", "tcn").insert("conv", example_inputs=None)
    assert build("nnx", "tcn").insert("conv", example_inputs=None, **CAUSAL)


@FLAX
def test_the_options_are_read_back_and_removed(flax):
    net = build(flax, "tcn")
    plan = net.plan(**CAUSAL)
    gated = net.insert(**CAUSAL)
    held = (gated.module, gated.variables) if flax == "linen" else (gated.module,)
    assert net.package.installed_eca(*held[:1]).entries == plan.entries
    assert {entry.causal_axis for entry in plan.entries} == {1}
    np.testing.assert_array_equal(gated.remove()(net.x), net(net.x))


@FLAX
def test_a_plan_that_insists_goes_on_to_insist(flax):
    net = build(flax, "tcn")
    plan = ECAPlan.from_json(net.plan(keep_causality=False).to_json())
    assert not plan.keep_causality
    assert net.insert(plan=plan)
    with pytest.raises(CausalityError, match="Pass causal_axis=1"):
        net.insert(plan=net.plan())


@FLAX
def test_an_axis_that_a_site_lacks_is_named(flax):
    with pytest.raises(ValueError, match=r"causal_axis must be in \[-3, 3\) for rank 3.*has rank 3.*overrides"):
        build(flax, "tcn").insert(causal_axis=4)
