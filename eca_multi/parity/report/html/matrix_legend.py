"""What the colours and marks of the matrix mean; marks that do not occur are left out."""

from collections.abc import Sequence

from .markup import Markup, element
from .read import Row, number, text
from .verdicts import fails

SCALE = ("≤ 1/16", "1/8", "1/4", "1/2", "1", "4", "16", "> 16")


def legend(results: Sequence[Row], blanks: bool) -> Markup:
    """Return the legend. `blanks` says whether some cells are empty."""
    infinite = any(text(row, "verdict") == "EXCEEDS_BUDGET" and number(row, "budget_use") is None for row in results)
    verdicts = {text(result, "verdict") for result in results}
    marks = {
        "=": ("every bit is right", "BITWISE" in verdicts),
        "✕": ("fails", any(map(fails, results))),
        "∞": ("no share (null in the JSON): compared bit by bit, or an error where the budget is 0", infinite),
        "inf": ("an infinity or NaN where none belongs, or none where one does", "NONFINITE_MISMATCH" in verdicts),
        "tap": ("a named value is missing", "MISSING_TAP" in verdicts),
        "?": ("inconclusive", "INCONCLUSIVE" in verdicts),
        "n/a": ("not supported", "UNSUPPORTED" in verdicts),
        "◥": ("passes, but some tensors are not supported", "UNSUPPORTED" in verdicts),
        "ᵐ": ("tolerance set by hand", any(text(result, "budget") == "manual" for result in results)),
        "·": ("not run", blanks),
    }
    steps = [element("span", edge, class_=f"step u{place}") for place, edge in enumerate(SCALE)]
    items = [element("li", "share of the budget ", element("span", *steps, class_="steps"))]
    items += [element("li", element("b", mark), f" {meaning}") for mark, (meaning, occurs) in marks.items() if occurs]
    return element("ul", *items, class_="legend")
