"""Residual adds are counted by the operations that run, and a gate counts where it reaches the add."""

import pytest
import torch
from torch import nn

from benchmarks.zoo.count import counted
from benchmarks.zoo.flow import Add
from benchmarks.zoo.torch_flow import adds_of
from eca_multi.surgery.entry import Skipped
from eca_multi.surgery.errors import NoSiteError
from eca_multi.torch import insert_eca, plan_eca


class Block(nn.Module):
    """A residual block; `how` says in which way the branch meets the shortcut."""

    def __init__(self, how: str = "add"):
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), how

    def forward(self, x):
        branch = self.norm(self.conv(x))
        if self.how == "in place":
            branch += x
            return branch.relu_()
        if self.how == "slice":
            out = branch.clone()
            out[:, :4] += x[:, :4]
            return out
        if self.how == "flat":
            return branch.mean((2, 3)) + x.mean((2, 3))
        if self.how == "parallel":
            return branch * 2 + branch.tanh()
        return (x + branch).relu()


def network(*ways: str) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *map(Block, ways or ("add",)))


X = torch.ones(2, 3, 9, 7)


@pytest.mark.parametrize(("how", "count"), [("add", 1), ("in place", 1), ("slice", 1), ("flat", 0), ("parallel", 0)])
def test_an_add_counts_where_its_sides_saw_different_convolutions(how, count):
    assert len(adds_of(network(how), X)) == count


def test_an_add_is_named_by_the_module_in_which_it_runs():
    assert [add.place for add in adds_of(network("add", "in place"), X)] == ["1", "2"]


def test_the_walk_leaves_nothing_in_the_model():
    net = network()
    adds_of(net.train(), X)
    assert all(module.training and not module._forward_hooks for module in net.modules())


def test_a_gate_counts_where_it_reaches_the_add():
    net = insert_eca(network("add", "in place"), example_inputs=X)
    assert [len(add.ecas) for add in adds_of(net, X)] == [1, 1]


@pytest.mark.parametrize("path", ["0", "2.conv"])
def test_a_gate_elsewhere_does_not_count(path):
    """The gate of a stem, and one that a convolution or a norm's block of another add comes after."""

    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return x + self.last(self.conv(x))

    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Late())
    gated = adds_of(insert_eca(net, [path]), X)
    if path == "0":  # the shortcut comes straight from the gate: a generous count, which no plan for branches makes
        gated = adds_of(insert_eca(nn.Sequential(*net[:1], nn.Conv2d(8, 8, 1), net[2]), [path]), X)
    assert [add.ecas for add in gated] == [frozenset()]


def test_adds_without_a_gate_take_the_reason_of_their_place():
    adds = adds_of(network("add", "add"), X)
    found = counted(adds, adds, [Skipped("1", "a merge"), Skipped("9", "another")])
    assert (found["gated"], found["reasoned"]) == (0, 1)
    assert [item["reason"] for item in found["left"]] == ["a merge", ""]


def test_an_add_takes_the_reason_of_its_own_line_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = x + self.first(x)
            return x + self.second(x)

    adds = adds_of(Twice(), X)
    lines = [add.line for add in adds]
    assert len(set(lines)) == 2
    found = counted(adds, adds, [Skipped("", "of the second", "add", lines[1]), Skipped("first", "a site", line="a:1")])
    assert [item["reason"] for item in found["left"]] == ["", "of the second"]


def test_what_the_plan_says_of_a_layer_it_cannot_read_holds_for_the_adds_inside():
    add = Add("neck/stage/residual", (2, 8, 8, 4), frozenset())
    found = counted([add, add], [add, add], [Skipped("neck", "could not be read")])
    assert found["reasoned"] == 2
    assert counted([add], [add], [Skipped("necklace", "another")])["reasoned"] == 0
    known = Add(
        "neck/stage/residual", (2, 8, 8, 4), frozenset(), "net:1"
    )  # of an add in a known line that is no answer
    assert counted([known], [known], [Skipped("neck", "could not be read")])["reasoned"] == 0


def test_a_refusal_holds_the_reason_of_each_add():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.left(x) + self.right(x)

    net = Parallel()
    with pytest.raises(NoSiteError, match="must have a site") as refusal:
        plan_eca(net, example_inputs=X)
    found = counted(adds_of(net, X), adds_of(net, X), refusal.value.skipped)
    assert (found["gated"], found["reasoned"]) == (0, 1), refusal.value.skipped


def test_a_reason_inside_two_modules_belongs_to_the_inner_one():
    """The block's own add is the attention's; the add of the block's MLP is the MLP's (PVT v2)."""
    adds = [Add(place, (2, 16, 8), frozenset()) for place in ("block", "block/mlp")]
    skipped = [Skipped("block/attention/projection", "tokens of attention"), Skipped("block/mlp/out", "tokens of MLP")]
    found = counted(adds, adds, skipped)
    assert [item["reason"] for item in found["left"]] == ["tokens of attention", "tokens of MLP"]
