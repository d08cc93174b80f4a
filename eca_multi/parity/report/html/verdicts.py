"""What a verdict means for a reader: which are good, which are bad, which are open, and which is worst."""

import math
from collections.abc import Iterable

from .read import Row, number, text

GREEN = frozenset({"BITWISE", "WITHIN_BUDGET"})
OPEN = frozenset({"UNSUPPORTED", "INCONCLUSIVE"})  # nothing was shown to be wrong, nor to be right

# Four or five letters for a cell without a number.
SHORT = {
    "NONFINITE_MISMATCH": "inf",
    "SHAPE_MISMATCH": "shape",
    "DTYPE_MISMATCH": "dtype",
    "MISSING_TAP": "tap",
    "ERROR": "error",
    "UNSUPPORTED": "n/a",
    "INCONCLUSIVE": "?",
}


def fails(result: Row) -> bool:
    return text(result, "verdict") not in GREEN | OPEN


def severity(result: Row) -> tuple[int, float]:
    """A sort key: failures over what is open to doubt, over passes, over what was not tried; then the budget use."""
    verdict = text(result, "verdict")
    if verdict == "BITWISE":  # the distance of the right bits from the exact value is no fault
        return 1, 0.0
    rank = 3 if fails(result) else 2 if verdict == "INCONCLUSIVE" else 1 if verdict in GREEN else 0
    use = number(result, "budget_use")
    missing = math.inf if rank == 3 else -1.0  # a failure without a number is a mismatch, worse than any number
    return rank, missing if use is None else use


def worst(results: Iterable[Row]) -> Row:
    """The most severe result; of equals the first by case and tensor."""
    ordered = sorted(results, key=lambda result: (text(result, "case"), text(result, "tensor")))
    return max(ordered, key=severity)


def words(verdict: str) -> str:
    return verdict.replace("_", " ").lower()
