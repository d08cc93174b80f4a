"""The reach of a budget: how far below the reference it lies, and so whether a verdict by it means anything.

A green verdict says that every error is at most c * E. Where c * E is as large as the reference itself, zeros would be
green too. So reach = |reference| / (c * E), at the median element, and it must be `LEAST`.

`LEAST` is 2. The smallest fault that is a fault in every layer and dtype is a factor of two: twice the right value is
off by |reference|, half of it by |reference| / 2, and zeros or the other sign by more. A median of 2 says that half of
the elements would each show all of these, and one that shows is enough. A larger number would ask for the power to see
finer faults, which depends on the fault and is what the check `power` measures.

Two kinds of zeros are legitimate, and need no exception by name:

* A gradient may cancel under one cotangent and not under the other, as that of a softmax does for ones. It is one
  linear function of the cotangent, which two cotangents probe: the verdict on one stands if the other's budget has the
  reach, for it would show a fault of the function.
* An element may be zero because nothing reaches it (a mask, a maximum, padding), or because its terms cancel exactly
  (the bias before a normalisation). Its own size says nothing then, so the median size of the other elements stands
  for it. Where all are zero there is no size to compare with, and no reach: any value but zero is a fault, and shows.
"""

import numpy as np

from eca_multi.parity.budget.errors import UNBOUNDED
from eca_multi.parity.define.dtypes import DTYPES, rounding

LEAST = 2.0
# A float64 sum of terms that cancel is off by about 2^-53 of the terms, and E by at least u of them. The factor is for
# the number of operations: long sums, and networks of some hundred layers.
_FLOAT64 = 2.0**-53 * 1024


def reach(reference: np.ndarray, limit: np.ndarray, dtype: str | None) -> float | None:
    """Return how many times the budget fits below the reference, at the median element.

    Args:
        reference: The float64 reference, of any shape.
        limit: c * E, of the same shape; an element without a bound has infinity, NaN or `UNBOUNDED`.
        dtype: The dtype under test, to tell a zero from the rounding of float64; None for a limit by hand, beside
            which a small number is no zero.

    Returns:
        The median; None where no element is finite, where all are zero, and for integers and booleans.

    Example:
        >>> import numpy as np
        >>> reach(np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.5, 8.0]), "float32")
        2.0
    """
    if reference.dtype.kind in "biu":
        return None
    known = np.isfinite(reference)
    size, limit = np.abs(reference[known]), np.asarray(limit, np.float64)[known]
    bounded = limit < UNBOUNDED
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        zero = size == 0.0
        if dtype is not None:
            zero |= bounded & (size <= limit * (_FLOAT64 / rounding(dtype if dtype in DTYPES else "float32").u))
        if zero.all():
            return None
        typical = np.where(zero, np.median(size[~zero]), size)
        return float(np.median(np.where(bounded, typical / limit, 0.0)))


def unbounded(reference: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return where a finite reference has no budget: infinite, NaN, or `UNBOUNDED` after a re-run was not finite."""
    without: np.ndarray = np.isfinite(reference) & ~(np.abs(limit) < UNBOUNDED)
    return without
