"""`prune_plan`: which ECAs do nothing, and the measured change of the outputs beside that of a network without them."""

import numpy as np
import pytest

from eca_multi.gates import GateRecord, LayerGates
from tests.support.recording import RECORDERS, call, network, prune, record, to_numpy

TWINS = pytest.mark.parametrize("twin", RECORDERS, ids=lambda twin: twin.name)
FAINT = {"torch": 2e-4, "linen": 2e-5, "nnx": 2e-5}  # gates nearly 1, and not quite; Flax's networks have larger maps


def removed(twin, net, paths):
    return twin.package.remove_eca(*twin.arguments(net), include=paths)


@TWINS
def test_the_plan_says_what_remove_eca_will_do(twin):
    net = network(twin, np.array([FAINT[twin.name], 0.0, 0.0]))
    _, gates = record(twin, net, [twin.x()])
    plan = prune(twin, net, gates, example_inputs=twin.x())
    (one,) = plan.candidates  # the author's own ECA does something
    assert (plan.paths, one.inserted, plan.checked) == (("conv",), True, 2)
    assert one.constant == pytest.approx(1, abs=1e-3)
    assert 0 < one.deviation < 1e-3
    before = to_numpy(call(twin, net, twin.x()))
    after = to_numpy(call(twin, removed(twin, net, plan.paths), twin.x()))
    largest = np.abs(after - before).max()
    assert largest > 1e-5  # the control: the removal can be seen
    for change in (one.removed, plan.together):
        assert change.largest == pytest.approx(largest, rel=1e-6)
        assert change.relative == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-6)
    folded = np.abs(one.constant * after - before).max()
    assert one.folded.largest == pytest.approx(folded, rel=1e-2, abs=1e-6)


@TWINS
def test_an_identity_is_taken_out_without_a_change_and_a_gate_at_work_is_not_found(twin):
    net = network(twin, np.zeros(3))
    _, gates = record(twin, net, [twin.x()])
    plan = prune(twin, net, gates, example_inputs=twin.x())
    assert (plan.paths, plan.together.largest) == (("conv",), 0.0)
    assert "1 of 2 ECAs have gates within 0.001 of a constant" in str(plan)
    at_work = network(twin)
    before = to_numpy(call(twin, at_work, twin.x()))
    _, gates = record(twin, at_work, [twin.x()])
    assert prune(twin, at_work, gates, example_inputs=twin.x()).paths == ()
    both = prune(twin, at_work, gates, example_inputs=twin.x(), threshold=10.0)
    assert {one.path: one.inserted for one in both.candidates} == {"own": False, "conv": True}
    assert both.paths == ("conv",)
    assert all(one.removed.largest > one.folded.largest * 0.1 > 0 for one in both.candidates)
    np.testing.assert_array_equal(to_numpy(call(twin, at_work, twin.x())), before)


@TWINS
def test_bad_input_has_one_text(twin):
    net = network(twin)
    _, gates = record(twin, net, [twin.x()])
    other = GateRecord(twin.name)
    other.add(LayerGates("layer7", 8, np.zeros(3)), np.ones((2, 8)))
    table = [
        (ValueError, r"gates must be of ECAs of the network\. Received: 1 other paths, 'layer7' among", other, {}),
        (ValueError, r"gates must be of ECAs of the network\. Received: an empty record", GateRecord(twin.name), {}),
        (TypeError, r"gates must be a record of gates\. Received: a int", 3, {}),
        (ValueError, r"threshold must be a finite number >= 0\. Received: threshold=-1", gates, {"threshold": -1}),
        (TypeError, r"threshold must be a number\. Received: threshold='no'", gates, {"threshold": "no"}),
        (ValueError, r"example_inputs must be what the network is called with\. Received: None", gates, {"none": True}),
    ]
    for error, match, given, options in table:
        inputs = None if options.pop("none", False) else twin.x()
        with pytest.raises(error, match=match):
            prune(twin, net, given, example_inputs=inputs, **options)
