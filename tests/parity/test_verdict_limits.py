"""Where a verdict turns, with the constants as literals: a right layer just below a limit, a wrong one just above it.

The harness's other tests take c and u from the code, so that a laxer code would pass them.
"""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from eca_multi.parity import NumpyAdapter, Spec
from eca_multi.parity.budget.safety import SAFETY
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.dtypes import U_ACC, rounding
from eca_multi.parity.define.spec import Case, Manual
from eca_multi.parity.define.tensor import Kind, Quantity, Tensor
from eca_multi.parity.engines import REFERENCES
from eca_multi.parity.execute.messages import Do
from eca_multi.parity.execute.tasks import tasks
from eca_multi.parity.judge.compare import Verdict, judge
from eca_multi.parity.judge.verdicts import Judge

LIMITS = {"analytic": 2.0, "stochastic": 4.0, "manual": 1.0}
ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}  # half of a unit in the last place of 1
SMALLEST = {"float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-14}  # normal numbers


def test_the_constants():
    assert SAFETY == LIMITS
    assert U_ACC == 2.0**-24
    for dtype, u in ROUNDOFF.items():
        assert (rounding(dtype).u, rounding(dtype).tiny) == (u, SMALLEST[dtype])


# --- one layer just above each budget, and one just below ------------------------------------------------------------


class Scale(NumpyAdapter):
    """y = x * scale: one product, so that the error of a right layer is known by hand."""

    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["scale"]


SPEC = Spec("Scale", "NC", weights={"scale": "C"}, runners={}, reference=Scale, cases=(Case("only"),))
MANUAL = Manual(rtol=1e-3, atol=1e-4)
STORED = Quantity(Kind.STORED, "scale")
Y = Quantity(Kind.OUTPUT, "y")
TAPS = [Quantity(kind, name) for kind in (Kind.TAP, Kind.TAP_GRADIENT) for name in ("first", "second")]


def task_and_solution(dtype="float32"):
    """The task of the one case, and the reference's solution with the stochastic error."""
    (task,) = tasks(SPEC, [SPEC.case("only")], [dtype], BASE)
    module, _, name = REFERENCES[Scale.engine].partition(":")
    engine = getattr(import_module(module), name)(Scale())
    return task, engine.solve(task.job)


def limits_of(kind, value, error):
    """What a result may be off by, in the numbers of this file."""
    if kind == "manual":
        return 1e-4 + 1e-3 * np.abs(value)
    return LIMITS[kind] * error


@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize("side", [-1, 1])
def test_a_layer_within_its_limit_passes_and_one_beyond_it_fails(kind, side):
    task, solution = task_and_solution()
    judge_of = Judge(("forward",), kind, MANUAL if kind == "manual" else None)
    value, error = solution[Y]
    assert (error > 0).all()
    for part, verdict in ((0.99, Verdict.WITHIN_BUDGET), (1.01, Verdict.EXCEEDS_BUDGET)):
        off = value.copy()
        off.flat[7] += side * part * limits_of(kind, value, error).flat[7]
        (cell,) = judge_of.cells("layer", task, {Y: Tensor(off, "float32")}, solution)
        assert cell.verdict is verdict
        assert cell.judgement.budget_use == pytest.approx(part, rel=1e-6)


@pytest.mark.parametrize("dtype", ROUNDOFF)
def test_the_stochastic_error_of_one_product_is_one_rounding(dtype):
    _, solution = task_and_solution(dtype)
    value, error = solution[Y]
    expected = ROUNDOFF[dtype] * np.abs(value) + SMALLEST[dtype]
    np.testing.assert_allclose(error, expected, rtol=0.01)


def test_a_negative_budget_lets_nothing_through():
    value = np.array([1.0, 2.0, 3.0])
    negative = np.full(3, -1.0)
    assert judge(Tensor(value + 1e-3, "float32"), value, negative, "float32").verdict is Verdict.EXCEEDS_BUDGET
    positive = judge(Tensor(value + 1e-3, "float32"), value, -negative, "float32")
    assert positive.verdict is Verdict.WITHIN_BUDGET


def test_a_result_at_its_limit_passes_and_the_next_number_fails():
    value, budget = np.array([1.0]), np.array([0.25])
    assert judge(Tensor(value + 0.5, "float32"), value, budget, "float32", 2.0).verdict is Verdict.WITHIN_BUDGET
    above = np.nextafter(value + 0.5, 2)
    assert judge(Tensor(above, "float32"), value, budget, "float32", 2.0).verdict is Verdict.EXCEEDS_BUDGET


@pytest.mark.parametrize(
    ("part", "verdict"), [(0.0, Verdict.BITWISE), (0.5, Verdict.WITHIN_BUDGET), (2.0, Verdict.EXCEEDS_BUDGET)]
)
def test_one_element_decides_among_equal_ones(part, verdict):
    value, budget = np.array([1.0, 2.0, 3.0]), np.full(3, 0.25)
    off = value + np.array([0.0, 0.25 * part, 0.0])
    assert judge(Tensor(off, "float32"), value, budget, "float32").verdict is verdict


@pytest.mark.parametrize("dtype", ROUNDOFF)
def test_the_right_numbers_in_another_dtype_are_wrong(dtype):
    value, budget = np.array([1.0, 2.0, 3.0]), np.full(3, 0.25)
    for other in ROUNDOFF:
        judged = judge(Tensor(value, other), value, budget, dtype)
        assert judged.verdict is (Verdict.BITWISE if other == dtype else Verdict.DTYPE_MISMATCH)
    assert judge(Tensor(value, dtype), value, budget, None).verdict is Verdict.BITWISE  # any dtype will do


# --- what a task lacks -----------------------------------------------------------------------------------------------


def tapped_task():
    (task,) = tasks(SPEC, [SPEC.case("only")], ["float32"], ["forward"])
    return replace(task, check="taps", job=replace(task.job, taps=("first", "second")))


def verdicts_of_taps(results):
    one = np.ones(3)
    solution = {quantity: (one, one) for quantity in TAPS}
    cells = Judge(("taps",), "analytic").cells("layer", tapped_task(), results, solution)
    return {cell.tensor: cell.verdict for cell in cells}


def test_a_tap_that_is_missing_among_others_is_a_failure():
    given = {quantity: Tensor(np.ones(3), "float32") for quantity in TAPS if quantity.label != "second"}
    verdicts = verdicts_of_taps(given)
    assert verdicts.pop("second") is Verdict.MISSING_TAP
    assert set(verdicts.values()) == {Verdict.BITWISE}
    assert Verdict.MISSING_TAP.disagrees


def test_an_adapter_without_any_tap_does_not_support_them():
    verdicts = verdicts_of_taps({Y: Tensor(np.ones(3), "float32")})
    assert set(verdicts.values()) == {Verdict.UNSUPPORTED}
    assert not Verdict.UNSUPPORTED.disagrees


# --- what is stored and read back ------------------------------------------------------------------------------------


CHANGES = {
    "one-bit": lambda w: np.nextafter(w, np.float32(np.inf)),
    "sign-of-zero": lambda w: np.where(w == 0, np.float32(-0.0), w),
    "one-element": lambda w: np.where(np.arange(w.size) == 1, w + np.float32(1e-7), w),
}


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_weights_are_read_back_bit_for_bit(change):
    weights = np.array([0.0, 0.1, -3.0], np.float32)
    (task,) = tasks(SPEC, [SPEC.case("only")], ["float32"], ["forward"])
    task = replace(task, check="roundtrip", do=Do.ROUNDTRIP, job=replace(task.job, weights={"scale": weights}))
    stored = weights if change is None else CHANGES[change](weights).astype(np.float32)
    (cell,) = Judge(("roundtrip",), "analytic").cells("layer", task, {STORED: Tensor(stored, "float32")}, {})
    assert cell.verdict is (Verdict.BITWISE if change is None else Verdict.EXCEEDS_BUDGET)


def test_a_spec_with_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="rtol and atol must be 0 or more"):
        Manual(rtol=-1e-3)
