"""Dropout that was left on: no change of the reference repeats its mask, so that the result itself must show it."""

from collections.abc import Iterable

import numpy as np

LEAST, MOST = 0.01, 0.95  # of a rate


def dropped(
    found: np.ndarray, reference: np.ndarray, limit: np.ndarray, calls: Iterable[tuple[np.ndarray, float]]
) -> tuple[float, float] | None:
    """Return the rate of a dropout that explains a result, and the share of the budget that it leaves; None for none.

    Dropout of h adds -h to some elements and h p / (1 - p) to all others, whatever is added to it.

    Args:
        found, reference, limit: The result, the reference and the largest error allowed, of one shape.
        calls: h and p of each dropout that the reference has turned off.
    """
    if found.shape != reference.shape or not np.isfinite(found).all() or found.size < 8:
        return None
    for h, rate in (*calls, (reference, _rate(found, reference))):
        if h.shape == found.shape and LEAST <= rate <= MOST:
            share = _share(found - reference, h, limit, rate)
            if share <= 1.0:
                return rate, share
    return None


def _rate(found: np.ndarray, reference: np.ndarray) -> float:
    """Return the rate by which the elements that are left were enlarged."""
    left = (found != 0) & (reference != 0)
    if not left.any():
        return 0.0
    return float(1 - 1 / max(np.median(found[left] / reference[left]), 1e-9))


def _share(difference: np.ndarray, h: np.ndarray, limit: np.ndarray, rate: float) -> float:
    zeroed, kept = np.abs(difference + h), np.abs(difference - h * rate / (1 - rate))
    # Where h is within the limit, an element may be either.
    is_zeroed, is_small = zeroed < kept, np.abs(h) <= limit
    shows = ~is_small
    if not (is_zeroed & shows).any() or not (~is_zeroed & shows).any():
        return np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.minimum(zeroed, kept) / (limit / (1 - rate))
    return float(np.nan_to_num(share, nan=0.0).max())
