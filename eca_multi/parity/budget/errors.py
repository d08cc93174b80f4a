"""The error budget of each element, from re-runs with rounding noise, for PyTorch and NumPy alike."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Arrays = dict[Any, Array]  # by the name or quantity that an evaluation gives them

# Allows any error: a re-run is not finite where the reference is, so the input lies at the edge of the layer's domain,
# and a correct layer may go either way. Divided, so that c * E does not overflow.
UNBOUNDED = float(np.finfo(np.float64).max) / 1024


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def whole_or_float64(values: Any) -> Array:
    """Copy values to float64; integers and booleans keep their dtype, since a verdict on them is exact."""
    return np.array(values, None if np.asarray(values).dtype.kind in "biu" else np.float64)


def error_budget(reference: Arrays, runs: Iterable[Arrays], u: float, tiny: float) -> Arrays:
    """Return max(u * |reference| + tiny, max |run - reference|), element by element.

    E is NaN where the reference is not finite: no verdict needs it there. E is UNBOUNDED where the reference is finite
    and a run is not.
    """
    reference = {name: r.astype(np.float64) for name, r in reference.items()}
    errors = {name: np.asarray(u * np.abs(r) + tiny) for name, r in reference.items()}
    with np.errstate(all="ignore"):
        for run in runs:
            for name, r in reference.items():
                difference = np.asarray(run[name] - r)
                np.maximum(errors[name], np.abs(difference, out=difference), out=errors[name])  # keeps NaN
    for name, r in reference.items():
        errors[name][~(errors[name] < UNBOUNDED)] = UNBOUNDED
        errors[name][~np.isfinite(r)] = np.nan
    return errors


def check_repeatable(first: Arrays, second: Arrays, errors: Arrays) -> None:
    """Raise RuntimeError where a second clean run differs by more than the order of float64 sums explains."""
    for name, r in first.items():
        with np.errstate(all="ignore"):
            differs = np.abs(second[name] - r.astype(np.float64)) > errors[name] * 2.0**-10
        if differs.any():
            raise RuntimeError(
                f"Two float64 runs of the reference differ in {str(name)!r}: it keeps state or draws random numbers, "
                "so its error cannot be measured. Set its state (running statistics, masks) anew at each call, and "
                "give weights to a layer that it builds."
            )
