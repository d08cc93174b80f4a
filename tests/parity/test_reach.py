"""The reach of a budget: green means something, and a layer of zeros is never green."""

from dataclasses import replace

import numpy as np
import pytest

from eca_multi.parity.budget.errors import UNBOUNDED
from eca_multi.parity.budget.torch_reference import TorchReference
from eca_multi.parity.define.adapters import TorchAdapter
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.draw import draw
from eca_multi.parity.define.dtypes import quantise
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.spec import Case, Manual, Spec
from eca_multi.parity.define.tensor import Cotangent, Kind, Quantity, Tensor
from eca_multi.parity.execute.messages import Do
from eca_multi.parity.execute.tasks import Task, base_job, tasks
from eca_multi.parity.judge.compare import Verdict, judge
from eca_multi.parity.judge.reach import LEAST, reach
from eca_multi.parity.judge.verdicts import Judge
from eca_multi.parity.specs.layer_norm import SPEC as LAYER_NORM

ONE = np.ones(8)
Y = Quantity(Kind.OUTPUT, "y")
DX, DX_ONES = (Quantity(Kind.INPUT_GRADIENT, "x", cotangent) for cotangent in Cotangent)


@pytest.mark.parametrize(
    ("reference", "limit", "expected"),
    [
        (ONE, ONE / 4, 4.0),
        (ONE, ONE * 4, 0.25),
        (-ONE, ONE / 4, 4.0),
        (np.r_[ONE, np.zeros(99)], 1e-3, 1000.0),  # zeros beside which the budget is small: a mask, a relu
        (np.r_[ONE, np.zeros(99)], 4.0, 0.25),  # zeros at which anything would pass
        (np.zeros(8), 1e-3, None),  # nothing to compare with
        (np.full(8, 1e-16), 2.0**-24, None),  # terms that cancel: rounding of float64 is no number
        (np.full(8, 1e-8), 2.0**-24, 1e-8 * 2.0**24),  # the negative control: small, and a number
        (ONE, UNBOUNDED, 0.0),
        (ONE, np.inf, 0.0),
        (np.full(8, np.nan), 1.0, None),
        (np.r_[ONE, np.full(99, np.inf)], 0.25, 4.0),  # no budget is asked for at an infinity
        (np.arange(8), 0.0, None),
    ],
)
def test_reach(reference, limit, expected):
    assert reach(reference, np.broadcast_to(limit, reference.shape), "float32") == pytest.approx(expected, nan_ok=True)


def test_beside_a_tolerance_by_hand_a_small_number_is_no_zero():
    assert reach(np.full(8, 1e-16), np.full(8, 1.0), None) == pytest.approx(1e-16)


def cells_of(results, solution, kind="stochastic", manual=None):
    """The cells of a task whose only tensors are y, and the two gradients of x where they are in the solution."""
    x = np.ones(8, np.float32)
    spec_job = {"case": "c", "dtype": "float32", "config": {}, "axes": {}, "outputs": ("y",), "inputs": {"x": x}}
    task = Task("", Do.EVALUATE, "c", Job(**spec_job, gradients=DX in solution), None)
    outputs = {quantity: Tensor(values, "float32") for quantity, values in results.items()}
    return {cell.tensor: cell for cell in Judge(BASE, kind, manual).cells("r", task, outputs, solution)}


@pytest.mark.parametrize(("error", "verdict"), [(0.1, Verdict.WITHIN_BUDGET), (0.15, Verdict.INCONCLUSIVE)])
def test_a_budget_of_more_than_half_of_the_reference_is_inconclusive(error, verdict):
    cell = cells_of({Y: ONE * 1.01}, {Y: (ONE, ONE * error)})["y"]  # c is 4
    assert cell.verdict is verdict
    assert cell.judgement.reach == pytest.approx(0.25 / error)
    assert ("x the reference at the median element" in cell.reason) == (verdict is Verdict.INCONCLUSIVE)


def test_what_exceeds_a_blind_budget_is_wrong_all_the_same_and_equal_bits_are_right():
    assert cells_of({Y: ONE * 9}, {Y: (ONE, ONE)})["y"].verdict is Verdict.EXCEEDS_BUDGET
    assert cells_of({Y: ONE}, {Y: (ONE, ONE)})["y"].verdict is Verdict.BITWISE


def test_a_tolerance_by_hand_can_be_blind_too():
    by_hand = {"kind": "manual", "manual": Manual(0.0, 0.9)}
    assert cells_of({Y: ONE * 1.01}, {Y: (ONE, ONE)}, **by_hand)["y"].verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("other", "verdict"), [(1e-3, Verdict.WITHIN_BUDGET), (9.0, Verdict.INCONCLUSIVE)])
def test_a_gradient_that_cancels_is_seen_under_the_other_cotangent(other, verdict):
    solution = {Y: (ONE, ONE * 1e-3), DX: (ONE * 1e-3, ONE * 1e-2), DX_ONES: (ONE, ONE * other)}
    results = {Y: ONE, DX: ONE * 2e-3, DX_ONES: ONE * 1.0001}
    assert cells_of(results, solution)["dx"].verdict is verdict


def test_a_gradient_that_is_zero_is_judged_and_anything_else_is_red():
    solution = {Y: (ONE, ONE * 1e-3), DX: (ONE * 0, ONE * 1e-7), DX_ONES: (ONE * 1e-17, ONE * 1e-7)}
    right = cells_of({Y: ONE, DX: ONE * 1e-8, DX_ONES: ONE * 1e-8}, solution)
    assert {right[name].verdict for name in ("dx", "dx@ones")} == {Verdict.WITHIN_BUDGET}
    assert right["dx"].judgement.reach is None
    assert cells_of({Y: ONE, DX: ONE * 1e-6, DX_ONES: ONE * 0}, solution)["dx"].verdict is Verdict.EXCEEDS_BUDGET


def test_a_rerun_that_was_not_finite_is_reported_and_never_green():
    error = np.where(np.arange(8) == 3, UNBOUNDED, 1e-3)
    cell = cells_of({Y: ONE * 1.0001}, {Y: (ONE, error)})["y"]
    assert cell.verdict is Verdict.INCONCLUSIVE
    assert "a re-run of the reference with rounding noise is not finite at [3], and at 1 of 8 elements" in cell.reason
    # A right layer may be infinite there; elsewhere it may not, and it may not be off.
    for place, verdict in ((3, Verdict.INCONCLUSIVE), (4, Verdict.NONFINITE_MISMATCH)):
        values = np.where(np.arange(8) == place, np.inf, ONE)
        assert judge(Tensor(values, "float32"), ONE, error, "float32", 4.0).verdict is verdict
    assert cells_of({Y: ONE * 1.1}, {Y: (ONE, error)})["y"].verdict is Verdict.EXCEEDS_BUDGET


# --- the layers that were green ---------------------------------------------------------------------------------------


class RmsNorm(TorchAdapter):
    def build(self, config):
        import torch.nn.functional as F  # of the tests of norms alone

        return lambda inputs, weights: F.rms_norm(inputs["x"], (config["C"],), weights["gamma"], 1e-6)


RMS_NORM = Spec("RMSNorm", "N L C", weights={"gamma": "C"}, runners={}, reference=RmsNorm, cases=(Case("only"),))


@pytest.fixture(scope="module", params=["LayerNorm", "RMSNorm"])
def norm(request):
    """A norm of x of a scale of 0.005, whose mean square is below float16's normal numbers: its tasks and solutions."""
    spec = LAYER_NORM if request.param == "LayerNorm" else RMS_NORM
    engine = TorchReference(spec.reference())
    small = Case("small", draw=lambda rng, c: {"x": rng.normal(0, 0.005, [c[axis] for axis in "NLC"])})
    spec = replace(spec, cases=(small,), training=None)

    def solve(dtype):
        job = base_job(spec, small, draw(spec, small), dtype)
        [task] = tasks(spec, [small], [dtype], BASE)
        return task, engine.solve(job)

    return {dtype: solve(dtype) for dtype in ("float32", "float16")}


def verdicts(task, solution, results):
    outputs = {q: Tensor(quantise(v, task.job.dtype), task.job.dtype) for q, v in results.items()}
    return {cell.tensor: cell.verdict for cell in Judge(BASE, "stochastic").cells("r", task, outputs, solution)}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_norm_of_zeros_is_never_green(norm, dtype):
    task, solution = norm[dtype]
    zeros = {quantity: np.zeros_like(value) for quantity, (value, _) in solution.items()}
    expected = Verdict.EXCEEDS_BUDGET if dtype == "float32" else Verdict.INCONCLUSIVE
    assert verdicts(task, solution, zeros)["y"] is expected
    green = [name for name, verdict in verdicts(task, solution, zeros).items() if verdict.green]
    assert green == []


def test_the_right_norm_is_green_in_float32(norm):
    task, solution = norm["float32"]
    right = {quantity: value + error / 2 for quantity, (value, error) in solution.items()}
    assert {verdict.green for verdict in verdicts(task, solution, right).values()} == {True}
    assert LEAST == 2.0
