"""Dtypes, their unit roundoffs, and rounding to them."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
U_ACC = 2.0**-24  # of the accumulator, float32


@dataclass(frozen=True)
class Rounding:
    """A dtype's unit roundoff and its smallest normal number."""

    u: float
    tiny: float


def rounding(dtype: str) -> Rounding:
    info = ml_dtypes.finfo(DTYPES[dtype])
    return Rounding(float(info.eps) / 2, float(info.smallest_normal))


def quantise(array: np.ndarray, dtype: str) -> np.ndarray:
    """Round to a dtype and return the values in float64."""
    with np.errstate(over="ignore"):
        return array.astype(DTYPES[dtype]).astype(np.float64)
