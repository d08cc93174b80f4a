"""The audit: operations of torch against their own float64 run. `FAULTS` are torch's own, and a control shows each."""

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.budgets import C, noise
from tests.support.torch_audit import GROUPS, OPERATIONS, audited, shares
from tests.support.torch_audit.control import both_shares
from tests.support.torch_audit.faults import FAULTS, MISSING

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),  # torch takes its own code
]


def test_no_operation_of_the_audit_hides_another():
    assert len(OPERATIONS) == sum(map(len, GROUPS)) >= 150
    assert {name for name, _ in [*FAULTS, *MISSING]} <= OPERATIONS.keys()


@pytest.mark.parametrize("name", OPERATIONS)
def test_torch_is_green_in_float32(name):
    worst = shares(OPERATIONS[name], "float32", 0)
    assert {result: use for result, use in worst.items() if use > C} == {}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_red_cell_in_half_precision_is_a_fault_of_torch(name, dtype):
    """Rounding every step to the dtype is within the budget wherever torch is not, so a right kernel would be, too."""
    if (name, dtype) in MISSING:
        with pytest.raises(RuntimeError, match=r"not implemented for|not supported"):
            shares(OPERATIONS[name], dtype, 0)
        return
    own, control = both_shares(OPERATIONS[name], dtype, 0)
    assert {result: use for result, use in control.items() if use > C} == {}
    red = {result for result, use in own.items() if use > C}
    assert red <= FAULTS.get((name, dtype), set())


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_is_taken_apart_is_still_itself(name):
    """PyTorch's decomposition of multilabel_margin_loss counts labels that do not count; the audit found it so."""
    _, evaluate = audited(OPERATIONS[name], "float32", 0)
    mode = noise()
    mode.quiet = True
    with mode:
        steps = evaluate(torch.float64)
    # torch's own hard sigmoid has the slope 1/6 in float32, in float64 too.
    tolerance = 1e-7 if name == "hardsigmoid" else 1e-9
    for result, whole in evaluate(torch.float64).items():
        torch.testing.assert_close(steps[result], whole, rtol=tolerance, atol=1e-11)
    assert mode.unknown_ops <= {"aten::_ctc_loss", "aten::_ctc_loss_backward", "aten::linalg_inv_ex"}


def _half(rng, *shape):
    return rng.normal(size=shape).astype(ml_dtypes.bfloat16)


def _tensor(array):
    return torch.from_numpy(array.astype(np.float32)).bfloat16()


def _embedding(rng):
    places, cotangent = rng.integers(0, 9, 60), _half(rng, 60, 32)
    weight = torch.zeros(9, 32, dtype=torch.bfloat16, requires_grad=True)
    (own,) = torch.autograd.grad(F.embedding(torch.from_numpy(places), weight), weight, _tensor(cotangent))
    return own, places, cotangent


def _norm_bias(rng):
    x, bias = _tensor(_half(rng, 600, 32)), torch.zeros(32, dtype=torch.bfloat16, requires_grad=True)
    cotangent = _half(rng, 600, 32)
    (own,) = torch.autograd.grad(F.layer_norm(x, (32,), torch.ones_like(bias), bias), bias, _tensor(cotangent))
    return own[None], np.zeros(600, int), cotangent


def _replicated(rng):
    x, cotangent = torch.zeros(1, 32, 4, dtype=torch.bfloat16, requires_grad=True), _half(rng, 40, 32)
    (own,) = torch.autograd.grad(F.pad(x, (25, 11), mode="replicate"), x, _tensor(cotangent.T[None]))
    return own[0].T, np.clip(np.arange(40) - 25, 0, 3), cotangent


@pytest.mark.parametrize("case", [_embedding, _norm_bias, _replicated])
def test_numpy_gives_the_bits_of_torch_if_it_adds_in_bfloat16_too(case):
    """The fault of `_SUMS` and `_ROWS`, in plain NumPy: one addition after the other, each rounded to bfloat16."""
    own, places, cotangent = case(np.random.default_rng(0))
    total = np.zeros(own.shape, ml_dtypes.bfloat16)
    for place, row in zip(places, cotangent, strict=True):
        total[place] = total[place] + row
    np.testing.assert_array_equal(own.float().numpy(), total.astype(np.float32))
    wide = np.zeros(own.shape)
    np.add.at(wide, places, cotangent.astype(np.float64))
    assert np.abs(total.astype(np.float64) - wide).max() > 4 * 2.0**-8 * np.abs(wide).min()
