"""Paired differences between kinds of attention, with confidence intervals over the seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Record = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """The mean of `kind` minus the mean of `base` over the seeds that both have.

    low, high: Student's 95 % interval of the mean difference.
    p: Of the two-sided paired t-test. 1 where every seed gave the same difference of 0.
    claimed: Whether the difference holds beside all other comparisons of the study (Holm, 5 % in all).
    """

    task: str
    kind: str
    mean: float
    low: float
    high: float
    p: float
    seeds: int
    claimed: bool = False


def differences(records: Sequence[Record], measure: str, base: str = "none") -> list[Difference]:
    """Return the difference of every kind from `base` on every task, in the order of the records."""
    cells: dict[tuple[str, str], dict[int, float]] = {}
    for record in records:
        cells.setdefault((record["task"], record["kind"]), {})[record["seed"]] = record[measure]
    found = [
        paired(task, kind, [(of[seed], cells[task, base][seed]) for seed in of if seed in cells[task, base]])
        for (task, kind), of in cells.items()
        if kind != base
    ]
    return holm(found)


def paired(task: str, kind: str, pairs: Iterable[tuple[float, float]]) -> Difference:
    """Compare one kind with its base; at least two pairs."""
    moved = np.array([a - b for a, b in pairs])
    n, mean = len(moved), float(moved.mean())
    error = float(moved.std(ddof=1)) / n**0.5
    if error == 0:
        return Difference(task, kind, mean, mean, mean, float(mean == 0), n)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Difference(task, kind, mean, mean - half, mean + half, p, n)


def holm(found: Sequence[Difference], level: float = 0.05) -> list[Difference]:
    """Mark what may be claimed when all of `found` are looked at (Holm 1979): the smallest p against level / m, ..."""
    order = sorted(range(len(found)), key=lambda i: found[i].p)
    claimed: set[int] = set()
    for rank, i in enumerate(order):
        if found[i].p > level / (len(found) - rank):
            break
        claimed.add(i)
    return [Difference(**{**vars(difference), "claimed": i in claimed}) for i, difference in enumerate(found)]
