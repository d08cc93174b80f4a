"""Where a port is compared: the axis order that is given or found, and whose backward pass is named."""

import numpy as np
import pytest

from eca_multi.parity.explain.backward import Wrong, find_backward
from eca_multi.parity.judge.compare import Judgement, Verdict
from eca_multi.parity.models.calls import Call
from eca_multi.parity.models.graph import Graph
from eca_multi.parity.models.layouts import aligned
from eca_multi.parity.models.pairing import Pair

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (2, 4, 4, 4), (1, 8, 4, 4)])
def test_the_expected_order_is_the_only_one_where_it_fits(shape):
    reference = RNG.normal(size=shape)
    right = reference.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(aligned(right, reference, (0, 3, 1, 2)), reference)
    swapped = right.swapaxes(1, 2)  # a fault: height for width, which another order would undo
    assert not np.array_equal(aligned(swapped, reference, (0, 3, 1, 2)), reference)
    np.testing.assert_array_equal(aligned(swapped, reference), reference)  # the control: without an expected order


def test_another_order_is_tried_where_the_expected_one_does_not_fit():
    reference = RNG.normal(size=(1, 3, 5, 4))
    np.testing.assert_array_equal(aligned(reference.transpose(0, 2, 3, 1), reference, (0, 1, 2, 3)), reference)
    assert aligned(RNG.normal(size=(2, 7)), reference) is None


class Net:
    """x -> a -> b -> y, and z = y + (the output of a), which `c` takes: a residual block with a head."""

    def __init__(self):
        x, a, b, c = (RNG.normal(size=(2, 3)) for _ in range(4))
        total = a + b
        self.inputs = {"x": x}
        self.calls = [
            _call("a", {"x0": x}, a),
            _call("b", {"x0": a.T.reshape(3, 2)}, b),  # code has transposed it
            _call("c", {"x0": total}, c),
            _call("", {"x0": x}, c),
        ]

    def find(self, *wrong: str, unpaired=(), **gradients):
        pairs = [Pair(call, call) for call in self.calls if call.path not in unpaired]
        keys = [pair.reference.key for pair in pairs]
        off = Judgement(Verdict.EXCEEDS_BUDGET, 30.0)
        arrived = {key: off if key[0] in wrong else Judgement(Verdict.WITHIN_BUDGET, 0.1) for key in keys}
        return find_backward(Graph(self.calls, self.inputs), pairs, arrived, Wrong(**gradients))


def _call(path, inputs, output):
    return Call(path, "Layer", 0, inputs, {"y": output})


def test_the_submodule_that_sends_on_a_wrong_gradient_is_named():
    net = Net()
    found = net.find(inputs=["x"])
    assert (found.culprit, "the gradient that arrives there agrees" in found.text) == ("a", True)
    assert net.find() is None  # the control: where nothing is wrong, none is named


def test_weights_whose_gradients_differ_name_their_submodule():
    net = Net()
    assert net.find("a", inputs=["x"], weights=["a.weight", "b.weight"]).culprit == "b"
    assert net.find("a", "b", weights=["a.weight", "b.weight"]).culprit == "b"  # no right gradient arrives at b
    assert net.find("a", "b", weights=["c/kernel", "b/kernel"]).culprit == "c"


def test_where_code_lies_between_both_ends_are_said():
    net = Net()
    found = net.find("a", "b")  # what takes b's output is the sum, which no submodule makes
    assert found.culprit == "b"
    assert found.text.startswith("between b (")
    assert "30 x the budget, and c (" in found.text
    both = net.find("a")  # b takes a's output, and so may the sum
    assert both.culprit == "b"
    assert "and b (" in both.text
    assert "and c (" in both.text
    alone = net.find("a", unpaired=["b"])
    assert alone.text.endswith("the port has no twin of b there")


def test_a_sum_of_two_other_tensors_is_no_reason_to_doubt():
    net = Net()
    inner = RNG.normal(size=(2, 3))
    first, second = net.calls[:2]
    net.calls[1:2] = [_call("m", dict(second.inputs), inner), _call("b", {"x0": inner}, second.outputs["y"])]
    found = net.find("a", "m", inputs=["x"])
    assert found.culprit == "b"
    assert found.text.startswith("of b (")
    net.calls[3] = _call("c", {"x0": 2 * first.outputs["y"] + inner}, net.calls[3].outputs["y"])
    assert "and c (" in net.find("a", "m").text  # the control: other code may have taken it
