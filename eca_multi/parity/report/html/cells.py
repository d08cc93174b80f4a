"""One cell of the matrix: the worst result of a runner in a check and dtype, as a colour, a text and a tooltip."""

from collections import Counter
from collections.abc import Sequence

from .formats import TIMES, check_name, count, index, use
from .markup import Markup, element
from .plot import box, cross, label
from .read import Row, number, text
from .verdicts import GREEN, OPEN, SHORT, fails, words, worst

HEIGHT = 32.0
EDGES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 4.0, 16.0)  # of the budget use, where the colour changes
LIMIT = EDGES.index(1.0)
WIDE = 4  # letters that fit into a cell in the usual size
HATCH = "hatch"  # the id of the pattern under what is open


def draw(found: Sequence[Row], left: float, top: float, width: float) -> Markup:
    """Return the cell's SVG. A failure has a ring and a cross besides its colour, an open verdict is hatched."""
    result = worst(found)
    colour, failed = _colour(result), fails(result)
    marks = [box(left + 1, top + 1, width - 2, HEIGHT - 2, f"cell {colour}")]
    if colour == "open":
        area = {"x": left + 1, "y": top + 1, "width": width - 2, "height": HEIGHT - 2}
        marks.append(element("rect", fill=f"url(#{HATCH})", **area))
    if failed:
        marks.append(box(left + 2.5, top + 2.5, width - 5, HEIGHT - 5, f"ring {colour}"))
        marks.append(cross(left + width - 8, top + 8, f"stamp {colour}", 2.2))
    elif partly(found):
        marks.append(element("path", d=f"M{left + width - 9:g} {top + 2:g}h7v7z", class_="corner"))
    words_ = shown(found)
    kind = "word" if text(result, "verdict") in SHORT or len(words_) > WIDE else "value"
    marks.append(label(left + width / 2, top + HEIGHT / 2 + (7 if failed else 4), words_, f"{kind} {colour}"))
    return element("g", element("title", _tip(result, found)), *marks)


def shown(found: Sequence[Row]) -> str:
    """The worst budget use, "=" where every bit agrees, or some letters where there is no number."""
    if all(text(row, "verdict") == "BITWISE" for row in found):
        return "="
    result = worst(found)
    value = SHORT.get(text(result, "verdict")) or use(number(result, "budget_use"))
    return f"{value}ᵐ" if text(result, "budget") == "manual" else value


def partly(found: Sequence[Row]) -> bool:
    """Whether some of what passes was not tried."""
    verdicts = {text(row, "verdict") for row in found}
    return "UNSUPPORTED" in verdicts and bool(verdicts & GREEN)


def where(result: Row) -> str:
    place = index(result.get("index"))
    return f"{text(result, 'case')}, {text(result, 'tensor')}{' at ' + place if place else ''}"


def _tip(result: Row, found: Sequence[Row]) -> str:
    """Three lines: which cell, its worst tensor, and how many there are of each verdict."""
    head = f"{text(result, 'runner')} · {check_name(text(result, 'check'))} · {text(result, 'dtype')}"
    measured = number(result, "budget_use")
    amount = "" if measured is None else f"{use(measured)} {TIMES} budget, "
    manual = ", tolerance set by hand" if text(result, "budget") == "manual" else ""
    kinds = Counter(words(text(row, "verdict")) for row in found)
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(kinds))
    worst_ = f"worst: {where(result)}: {amount}{words(text(result, 'verdict'))}{manual}"
    return f"{head}\n{worst_}\n{count(len(found), 'tensor')}: {counts}"


def _colour(result: Row) -> str:
    """A step of the scale; a pass never takes a colour from beyond the limit, nor a failure one from below it."""
    verdict, measured = text(result, "verdict"), number(result, "budget_use")
    if verdict in OPEN:
        return "open"
    if verdict == "BITWISE":
        return "u0"
    steps = sum((measured or 0.0) > edge for edge in EDGES)
    if verdict in GREEN:
        return f"u{min(steps, LIMIT)}"
    return f"u{len(EDGES) if measured is None else max(steps, LIMIT + 1)}"
