"""Adds that are written in other ways: chains, sums of lists, casts, numbers as arguments, lerp and addcmul."""

import pytest
import torch
from torch import nn

from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from eca_multi.torch import insert_eca, plan_eca


class Net(nn.Module):
    """Three convolutions and a forward that the test gives."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.factor = nn.Parameter(torch.ones(8, 1, 1))
        self.rule = forward

    def forward(self, x):
        return self.rule(self, x)


class Sum(nn.Module):
    def forward(self, tensors):
        return sum(tensors)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x, scale=1.0):
        return x + self.a(x) * scale


def x():
    return torch.randn(2, 8, 9, 7, generator=torch.Generator().manual_seed(0))


def later(net, x):
    y = x + net.a(x)
    return y + net.b(y) + net.c(x)


CHAINS = {
    "x + a + b": (lambda net, x: x + net.a(x) + net.b(x), ["a", "b"]),
    "a + (x + b)": (lambda net, x: net.a(x) + (x + net.b(x)), ["a", "b"]),
    "x + ba + c": (lambda net, x: x + net.b(net.a(x)) + net.c(x), ["b", "c"]),
    "sum of three": (lambda net, x: sum([x, net.a(x), net.b(x)]), ["a", "b"]),
    "a later add": (later, ["a", "b", "c"]),
    "four": (lambda net, x: x + net.a(x) + net.b(x) + net.c(x), ["a", "b", "c"]),
    "float": (lambda net, x: x.float() + net.a(x).float(), ["a"]),
    "type_as": (lambda net, x: x + net.a(x).type_as(x), ["a"]),
    "lerp": (lambda net, x: torch.lerp(x, net.a(x), 0.5), ["a"]),
    "addcmul": (lambda net, x: torch.addcmul(x, net.a(x), net.factor), ["a"]),
}


@pytest.mark.parametrize("example_inputs", [None, x()], ids=["traced", "run"])
@pytest.mark.parametrize("kind", CHAINS)
def test_each_branch_of_a_sum_is_a_site(kind, example_inputs):
    forward, paths = CHAINS[kind]
    net = Net(forward).eval()
    before = net(x())
    plan = plan_eca(net, example_inputs=example_inputs)
    assert list(plan.paths) == paths
    assert not plan.skipped_adds
    assert torch.equal(insert_eca(net, plan=plan)(x()), before)


def test_parallel_branches_and_products_are_no_branches():
    """The controls: a sum without a shortcut, and a product where addcmul has another factor of the input's."""
    with pytest.raises(NoSiteError, match="parallel branches"):
        plan_eca(Net(lambda net, x: net.a(x) + net.b(x)))
    with pytest.raises(NoSiteError, match="nothing in the network adds"):
        plan_eca(Net(lambda net, x: torch.addcmul(net.factor, x, net.factor)))


def test_a_factor_with_a_number_as_default_is_no_input():
    assert plan_eca(nn.Sequential(Scaled(), Scaled())).paths == ("0.a", "1.a")


def test_a_module_that_sums_a_list():
    net = Net(lambda net, x: net.sum([x, net.a(x)]))
    net.sum = Sum()
    assert plan_eca(net, example_inputs=x()).paths == ("a",)
    with pytest.raises(UnsupportedModelError, match=r"torch\.fx cannot trace sum"):
        plan_eca(net)


def test_a_convolution_of_complex_numbers_is_no_site():
    net = Net(lambda net, x: (lambda z: (z + net.c(z)).abs())(torch.complex(x, net.a(x) + x)))
    net.c = nn.Conv2d(8, 8, 1, dtype=torch.cfloat)
    plan = plan_eca(net)
    assert plan.paths == ("a",)
    assert [skipped.reason for skipped in plan.skipped if skipped.path == "c"] == ["it computes with complex numbers"]
    plan = plan_eca(net, example_inputs=x())
    assert "no single tensor of real numbers" in str(plan)
    insert_eca(net, plan=plan)(x())
