"""The judging of one array by its error budget. Other measures of the error are reported, and never decide."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import ml_dtypes
import numpy as np

from eca_multi.parity.define.dtypes import DTYPES, quantise
from eca_multi.parity.define.tensor import Tensor

from .reach import unbounded

POINTS = 48  # of a profile: enough for a picture, chosen among about SAMPLED
SAMPLED = 4096
BINS = 10  # log2 bins of error / budget below 1; two more are for "exactly zero" and "above the budget"


class Verdict(StrEnum):
    BITWISE = "BITWISE"
    WITHIN_BUDGET = "WITHIN_BUDGET"
    EXCEEDS_BUDGET = "EXCEEDS_BUDGET"
    NONFINITE_MISMATCH = "NONFINITE_MISMATCH"
    SHAPE_MISMATCH = "SHAPE_MISMATCH"
    DTYPE_MISMATCH = "DTYPE_MISMATCH"
    MISSING_TAP = "MISSING_TAP"
    UNSUPPORTED = "UNSUPPORTED"
    ERROR = "ERROR"
    ROUNDING = "ROUNDING"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def green(self) -> bool:
        return self in (Verdict.BITWISE, Verdict.WITHIN_BUDGET)

    @property
    def disagrees(self) -> bool:
        """Whether something was compared, and differs by a fault of its own."""
        return not self.green and self not in _NO_FAULT


_NO_FAULT = (Verdict.UNSUPPORTED, Verdict.ERROR, Verdict.INCONCLUSIVE, Verdict.ROUNDING)


@dataclass(frozen=True)
class Judgement:
    """A verdict with its evidence.

    `budget_use` is max |error| / (c * E): 1 is the whole budget, more fails; None where nothing could be measured.
    `index`, `expected` and `received` are those of the worst element. `metrics` (max_abs, max_rel, max_ulp, rmse,
    snr_db, min_c) are for people. `profile` holds what a picture of the errors needs. `reach` says how many times the
    budget fits below the reference (reach.py); None where there is nothing to measure. `hint` is what
    `compare` found out about the difference of two files.
    """

    verdict: Verdict
    budget_use: float | None = None
    index: tuple[int, ...] = ()
    expected: str = ""
    received: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    reach: float | None = None
    hint: str = ""


def judge(
    actual: Tensor,
    reference: np.ndarray,
    budget: np.ndarray,
    dtype: str | None,
    c: float = 1.0,
    *,
    details: bool = True,
) -> Judgement:
    """Compare a result with the float64 reference: |actual - reference| <= c * budget, element by element.

    Where the reference, rounded to `dtype`, is not finite, the result must be the same infinity or NaN. A `dtype` of
    None takes the result's own. Integers and booleans of the reference must be met exactly, by those of any width.
    An element that equals the reference needs no budget. Any other element without a budget (infinite, NaN, or
    unbounded by a re-run that was not finite) makes the verdict INCONCLUSIVE, unless some element exceeds its own.
    Without `details` there are no metrics and no profile.
    """
    if actual.values.shape != reference.shape:
        return Judgement(Verdict.SHAPE_MISMATCH, None, (), str(tuple(reference.shape)), str(tuple(actual.values.shape)))
    if reference.dtype.kind in "biu":
        return _judge_exactly(actual, reference, dtype)
    if dtype is not None and actual.dtype != dtype:
        return Judgement(Verdict.DTYPE_MISMATCH, None, (), dtype, actual.dtype)

    values = actual.values.astype(np.float64)
    rounded = quantise(reference, actual.dtype) if actual.dtype in DTYPES else reference
    finite = np.isfinite(rounded)
    everywhere: Any = ... if finite.all() else finite  # a mask copies what it chooses
    error, limit = np.zeros_like(values), np.zeros_like(values)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        limit[everywhere] = c * budget[everywhere]
        boundless = unbounded(rounded, limit)
        same = np.isfinite(values) if everywhere is ... else _same_class(values, rounded)
        same |= boundless  # at the edge of the layer's domain, where a right layer may go either way
        if not same.all():
            return Judgement(Verdict.NONFINITE_MISMATCH, None, *_element(np.argmin(same), rounded, values))
        error[everywhere] = np.abs(values[everywhere] - reference[everywhere])
        boundless &= error != 0.0
        # Nothing is within a negative budget. An element without a finite budget is not measured.
        use = np.asarray(error / np.maximum(limit, 0.0))
        use[(error == 0.0) | boundless] = 0.0
    worst = int(np.argmax(use)) if use.size else 0
    largest = float(use.flat[worst]) if use.size else 0.0
    if _same_bits(values, rounded).all():
        verdict = Verdict.BITWISE
    elif largest > 1.0:
        verdict = Verdict.EXCEEDS_BUDGET
    elif boundless.any():
        return Judgement(Verdict.INCONCLUSIVE, None, *_element(np.argmax(boundless), reference, values))
    else:
        verdict = Verdict.WITHIN_BUDGET
    place = _element(worst, reference, values) if use.size else ((), "", "")
    if not details:
        return Judgement(verdict, largest, *place)
    return Judgement(
        verdict,
        largest,
        *place,
        _metrics(error[everywhere].reshape(-1), np.abs(reference[everywhere]).reshape(-1), actual.dtype, largest * c),
        _profile(*(array[everywhere].reshape(-1) for array in (error, reference, limit, use))),
    )


def bits_differ(first: Tensor, second: Tensor) -> Judgement:
    """Judge a repetition: the same bits, or else EXCEEDS_BUDGET at the first element that differs.

    0 and -0 differ; all NaN are equal.
    """
    if first.values.shape != second.values.shape:
        shapes = str(first.values.shape), str(second.values.shape)
        return Judgement(Verdict.SHAPE_MISMATCH, None, (), *shapes)
    if first.dtype != second.dtype:
        return Judgement(Verdict.DTYPE_MISMATCH, None, (), first.dtype, second.dtype)
    same = _same_bits(first.values, second.values)
    return _judge_equality(same, first.values, second.values)


def _judge_exactly(actual: Tensor, reference: np.ndarray, dtype: str | None) -> Judgement:
    if dtype is not None and actual.values.dtype.kind not in "biu":
        return Judgement(Verdict.DTYPE_MISMATCH, None, (), reference.dtype.name, actual.dtype)
    return _judge_equality(actual.values == reference, reference, actual.values)


def _judge_equality(same: np.ndarray, expected: np.ndarray, received: np.ndarray) -> Judgement:
    if same.all():
        return Judgement(Verdict.BITWISE, 0.0)
    return Judgement(Verdict.EXCEEDS_BUDGET, None, *_element(np.argmin(same), expected, received))


def metrics(actual: np.ndarray, reference: np.ndarray, dtype: str) -> dict[str, float]:
    """Return the measures of an error without a budget, over the elements that are finite in both; {} without any."""
    if actual.shape != reference.shape:
        return {}
    values, wanted = actual.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(values) & np.isfinite(wanted)
    measured = _metrics(np.abs(values[finite] - wanted[finite]), np.abs(wanted[finite]), dtype, 0.0)
    measured.pop("min_c", None)
    return measured


def _same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    same: np.ndarray = (a == b) & (np.signbit(a) == np.signbit(b))
    return same if same.all() else same | (np.isnan(a) & np.isnan(b))


def _same_class(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    both_nan = np.isnan(a) & np.isnan(b)
    same: np.ndarray = np.where(np.isfinite(b), np.isfinite(a), both_nan | (a == b))
    return same


def _element(flat: int | np.intp, expected: np.ndarray, received: np.ndarray) -> tuple[tuple[int, ...], str, str]:
    index = tuple(int(i) for i in np.unravel_index(flat, expected.shape))
    return index, f"{expected[index]:.9g}", f"{received[index]:.9g}"


def _metrics(error: np.ndarray, size: np.ndarray, dtype: str, min_c: float) -> dict[str, float]:
    if not error.size:
        return {}
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        relative = error / size
        relative[error == 0.0] = 0.0
        signal, noise = float(np.vdot(size, size)), float(np.vdot(error, error))
        metrics = {
            "max_abs": float(error.max()),
            "max_rel": float(relative.max()),
            "rmse": float(np.sqrt(noise / error.size)),
            "min_c": min_c,
        }
        if noise > 0 and signal > 0:
            metrics["snr_db"] = float(10 * np.log10(signal / noise))
        if dtype in DTYPES:
            metrics["max_ulp"] = float((error / _ulp(size, dtype)).max())
    return metrics


def _ulp(size: np.ndarray, dtype: str) -> np.ndarray:
    """Return the gap between neighbours of a dtype at each value; of a subnormal value, that of the smallest normal."""
    info = ml_dtypes.finfo(DTYPES[dtype])
    exponent = np.frexp(np.maximum(size, float(info.smallest_normal)))[1] - 1
    ulp: np.ndarray = np.ldexp(float(info.eps), exponent)
    return ulp


def _profile(error: np.ndarray, reference: np.ndarray, limit: np.ndarray, use: np.ndarray) -> dict[str, Any]:
    """Return points of (|reference|, error, budget) spread over the sizes, and a histogram of use.

    The worst element is among the points.
    """
    if not error.size:
        return {}
    worst = int(np.argmax(use))
    sample = np.append(np.arange(0, len(use), max(1, len(use) // SAMPLED)), worst)
    sample = sample[np.argsort(np.abs(reference[sample]), kind="stable")]
    spread = np.linspace(0, len(sample) - 1, POINTS - 1).astype(int)
    chosen = sample[np.unique(np.append(spread, np.argmax(use[sample])))]
    points = [[float(f"{abs(v):.4g}") for v in (reference[i], error[i], limit[i])] for i in chosen]
    # frexp: use in (2^(e-1), 2^e] for all but the powers of two themselves
    exponents = np.clip(np.frexp(use)[1], -BINS + 1, 1) + BINS - 1
    counts = np.bincount(exponents[use > 0], minlength=BINS + 1)
    return {"points": points, "histogram": [int((use == 0).sum()), *map(int, counts)]}
