"""Judge one array against the oracle's, by the budget."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from .budget import quantise
from .jobs import Tensor


class Verdict(StrEnum):
    BITWISE = "BITWISE"
    WITHIN_BUDGET = "WITHIN_BUDGET"
    EXCEEDS_BUDGET = "EXCEEDS_BUDGET"
    NONFINITE_MISMATCH = "NONFINITE_MISMATCH"
    SHAPE_MISMATCH = "SHAPE_MISMATCH"
    DTYPE_MISMATCH = "DTYPE_MISMATCH"
    ERROR = "ERROR"

    @property
    def green(self) -> bool:
        return self in (Verdict.BITWISE, Verdict.WITHIN_BUDGET)


@dataclass(frozen=True)
class Judgement:
    """A verdict with its evidence.

    `budget_use` is max |error| / budget: 1 is the whole budget, more fails. It is infinite where shapes, dtypes or
    non-finite values differ. `index`, `expected` and `received` are those of the worst element.
    """

    verdict: Verdict
    budget_use: float
    max_abs: float
    index: tuple[int, ...] = ()
    expected: str = ""
    received: str = ""


def judge(actual: Tensor, reference: np.ndarray, budget: np.ndarray, dtype: str) -> Judgement:
    """Compare a result with the float64 reference: |actual - reference| <= budget, element by element.

    Where the reference, rounded to `dtype`, is not finite, the result must be the same infinity or NaN.
    """
    if actual.values.shape != reference.shape:
        return _mismatch(Verdict.SHAPE_MISMATCH, reference.shape, actual.values.shape)
    if actual.dtype != dtype:
        return _mismatch(Verdict.DTYPE_MISMATCH, dtype, actual.dtype)

    values = actual.values.astype(np.float64)
    rounded = quantise(reference, dtype)
    finite = np.isfinite(rounded)
    same = np.isfinite(values) if finite.all() else _same_class(values, rounded)
    if not same.all():
        return _at(Verdict.NONFINITE_MISMATCH, np.inf, np.inf, np.argmin(same), rounded, values)

    error = np.zeros_like(values)
    error[finite] = np.abs(values[finite] - reference[finite])
    use = np.where(error == 0.0, 0.0, error / budget)
    worst = int(np.argmax(use))
    if np.array_equal(values, rounded, equal_nan=True):
        verdict = Verdict.BITWISE
    elif use.flat[worst] <= 1.0:
        verdict = Verdict.WITHIN_BUDGET
    else:
        verdict = Verdict.EXCEEDS_BUDGET
    return _at(verdict, float(use.flat[worst]), float(error.max(initial=0.0)), worst, reference, values)


def _same_class(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    both_nan = np.isnan(a) & np.isnan(b)
    same: np.ndarray = np.where(np.isfinite(b), np.isfinite(a), both_nan | (a == b))
    return same


def _mismatch(verdict: Verdict, expected: object, received: object) -> Judgement:
    return Judgement(verdict, np.inf, np.inf, (), str(expected), str(received))


def _at(
    verdict: Verdict,
    use: float,
    max_abs: float,
    flat: int | np.intp,
    expected: np.ndarray,
    received: np.ndarray,
) -> Judgement:
    index = tuple(int(i) for i in np.unravel_index(flat, expected.shape))
    return Judgement(verdict, use, max_abs, index, f"{expected[index]:.9g}", f"{received[index]:.9g}")
