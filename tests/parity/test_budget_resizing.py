"""Weights that are themselves rounded: right code is accepted in float32, and code that is a little wrong is not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eca_multi.parity.budget.noise import budget
from tests.support.budgets import TINY, U_ACC, C, draw, gradients, noise
from tests.support.torch_audit import OPERATIONS, audited, shares
from tests.support.torch_audit.operation import op, share

pytestmark = pytest.mark.usefixtures("one_thread")

# Red before backward noise was derived from the forward pass: by 4 to 300,000 times the error E.
ONCE_RED = [
    "bilinear (13, 11)-(6, 5)",
    "bilinear (28, 28)-(10, 10)",
    "bilinear (7, 7)-(5, 5)",
    "bicubic (13, 11)-(6, 5)",
    "bilinear antialias",
    "resize linear",
    "grid_sample bilinear zeros",
    "grid_sample bicubic zeros corners",
    "grid_sample 3d",
    "bilinear small",
    "embedding_bag mean",
    "multi_margin",
    "multilabel_margin",
    "gelu",
    "rrelu eval",
]


@pytest.mark.parametrize("name", ONCE_RED)
def test_right_code_is_accepted_in_float32(name):
    worst = shares(OPERATIONS[name], "float32", 0)
    assert {result: use for result, use in worst.items() if use > C} == {}


def _off(x, factor):
    return F.interpolate(x, scale_factor=factor, mode="bilinear")


SLIGHTLY_WRONG = {
    "coordinate": (
        op(lambda x: F.interpolate(x, size=(6, 5), mode="bilinear"), x=(2, 3, 13, 11)),
        lambda x: F.interpolate(x, size=(6, 5), mode="bilinear", align_corners=True),
    ),
    "scale": (op(lambda x: _off(x, 1.7), x=(2, 3, 13, 11)), lambda x: _off(x, 1.7 * (1 + 2e-5))),
    "antialias": (
        op(lambda x: F.interpolate(x, size=(6, 5), mode="bilinear", antialias=True), x=(2, 3, 13, 11)),
        lambda x: F.interpolate(x, size=(6, 5), mode="bilinear"),
    ),
    "grid off by 1e-5": (
        op(lambda x, g: F.grid_sample(x, g, align_corners=False), x=(2, 3, 13, 11), g=(2, 4, 5, 2)),
        lambda x, g: F.grid_sample(x, g + 1e-5, align_corners=False),
    ),
    "corners": (
        op(lambda x, g: F.grid_sample(x, g, align_corners=False), x=(2, 3, 13, 11), g=(2, 4, 5, 2)),
        lambda x, g: F.grid_sample(x, g, align_corners=True),
    ),
    "tanh gelu": (op(F.gelu, x=(4, 99)), lambda x: F.gelu(x, approximate="tanh")),
    "bilinear weight": (
        op(lambda a, w, b: F.bilinear(a, b, w), a=(9, 5), w=(3, 5, 4), b=(9, 4)),
        lambda a, w, b: F.bilinear(a, b, w * (1 + 1e-5)),
    ),
}


@pytest.mark.parametrize(("right", "wrong"), SLIGHTLY_WRONG.values(), ids=SLIGHTLY_WRONG)
def test_a_little_wrong_code_is_rejected(right, wrong):
    _, evaluate = audited(right, "float32", 0)
    reference, errors = budget(lambda: evaluate(torch.float64), 2.0**-24, U_ACC, TINY)
    assert max(share(evaluate(torch.float32), reference, errors).values()) < C
    _, evaluate_wrong = audited(right._replace(call=lambda **t: wrong(*t.values())), "float32", 0)
    off = share(evaluate_wrong(torch.float32), reference, errors)
    assert off["y"] > C
    assert max(use for name, use in off.items() if name != "y") > C


def test_a_weight_of_an_interpolation_is_rounded_and_its_coordinate_is_not_in_half_precision():
    """At 57 -> 23 a coordinate is up to 56: rounded to bfloat16 it would be off by 0.2 of an element."""
    x = torch.ones(1, 1, 57, dtype=torch.float64).cumsum(2)

    def resize(x):
        return F.interpolate(x, size=23, mode="linear")

    _, errors = budget(lambda: {"y": resize(x)}, 2.0**-8, U_ACC, TINY)
    assert (errors["y"] > 2.0**-8 * resize(x).numpy() * 0.9).all()
    assert (errors["y"] < 4 * 2.0**-8 * resize(x).numpy()).all()


def test_a_gradient_is_charged_for_the_place_of_a_sample():
    """Exact cotangents and inputs: without noise of the forward steps, the gradient of x would have one rounding."""
    grid = torch.tensor([[[[0.3, -0.2]]]], dtype=torch.float64)
    x = draw(1, 1, 9, 9)

    def evaluate():
        dx, dgrid = gradients(lambda x, g: F.grid_sample(x, g, align_corners=False), x, grid)
        return {"dx": dx, "dgrid": dgrid}

    reference, errors = budget(evaluate, 2.0**-24, U_ACC, TINY)
    hit = reference["dx"] != 0
    assert hit.sum() == 4
    assert (errors["dx"][hit] > 1.5 * 2.0**-24 * np.abs(reference["dx"][hit])).all()


def test_a_derived_backward_pass_leaves_autograd_as_it_was():
    mode = noise()
    x = draw(1, 2, 5, 5).requires_grad_()
    with mode:
        y = F.grid_sample(x, draw(1, 3, 3, 2).clamp(-1, 1), align_corners=False)
        (dx,) = torch.autograd.grad(y.sum(), x)
    assert not dx.requires_grad
    assert torch.is_grad_enabled()
    assert not mode.unknown_ops
