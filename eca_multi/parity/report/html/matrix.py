"""The matrix: runners against checks and dtypes, each cell the worst budget use within it."""

from collections.abc import Mapping, Sequence

from .cells import HATCH, HEIGHT, draw
from .formats import check_name, count, short_dtype
from .markup import Markup, element, join, shorten
from .matrix_legend import legend
from .matrix_table import Cells, as_table
from .plot import label, line, picture
from .read import CHECKS, DTYPES, Row, in_order, rows, runner_names, text
from .tables import scroll

WIDTH, GAP, HEAD = 38.0, 8.0, 46.0  # of a cell, between checks, and of the heads above
LETTER, BOLD = 7.0, 8.0  # pixels of a letter, on the wide side
LONGEST = 22  # letters of a name that are shown

Column = tuple[str, str, float, float]  # check, dtype, left edge, width


def matrix(report: Row) -> Markup | None:
    """Return the section's content, or None where nothing was compared."""
    cells: dict[tuple[str, str, str], list[Row]] = {}
    for result in rows(report, "results"):
        key = (text(result, "runner"), text(result, "check"), text(result, "dtype"))
        cells.setdefault(key, []).append(result)
    if not cells:
        return None
    runners, columns = runner_names(report), _columns(cells)
    size = {"width": columns[-1][2] + columns[-1][3] + 2, "height": HEAD + HEIGHT * len(runners) + 2}
    states = {text(state, "name"): state for state in rows(report, "runners")}
    ran = [runner for runner in runners if any(runner == key[0] for key in cells)]
    marks = [_hatch(), *_heads(columns)]
    for place, runner in enumerate(runners):
        top = HEAD + HEIGHT * place
        absent = _absent(states.get(runner, {}), top, size["width"])
        marks += _cells(runner, columns, cells, top) if runner in ran else [absent]
    alternative = (
        f"Worst budget use of {count(len(runners), 'runner')} in {count(len(columns), 'pair')} of check and dtype. "
        "The same is given as a table below."
    )
    stuck = element("div", _names(runners, states, size["height"]), class_="stuck")
    drawn = scroll("Matrix of budget use", stuck, picture(alternative, *marks, fixed=True, **size), class_="matrix")
    blanks = len(cells) < len(ran) * len(columns)
    pairs = [(check, dtype) for check, dtype, _, _ in columns]
    return join(legend(rows(report, "results"), blanks), drawn, as_table(runners, pairs, cells))


def _columns(cells: Cells) -> list[Column]:
    """The columns by check; those of a check are together at least as wide as its name."""
    columns: list[Column] = []
    left = GAP
    for check in in_order((check for _, check, _ in cells), CHECKS):
        dtypes = in_order((dtype for _, other, dtype in cells if other == check), DTYPES)
        width = max(WIDTH, (min(len(check), LONGEST) * BOLD + GAP) / len(dtypes))
        columns += [(check, dtype, left + width * place, width) for place, dtype in enumerate(dtypes)]
        left += width * len(dtypes) + GAP
    return columns


def _heads(columns: Sequence[Column]) -> list[Markup]:
    marks = [label(left + width / 2, HEAD - 7, short_dtype(dtype), "tick") for _, dtype, left, width in columns]
    for check in dict.fromkeys(check for check, *_ in columns):
        edges = [(left, left + width) for other, _, left, width in columns if other == check]
        start, stop = edges[0][0] + 1, edges[-1][1] - 1
        name = shorten(check_name(check), LONGEST)
        marks += [label((start + stop) / 2, 15, name, "head"), line((start, 23), (stop, 23), "axis")]
    return marks


def _names(runners: Sequence[str], states: Mapping[str, Row], height: float) -> Markup:
    """The runners' names, with a note on those that did not run to their end. They stay in view as cells scroll."""
    notes = ["" if _ran(states.get(runner, {})) else text(states[runner], "state") for runner in runners]
    width = max(min(len(name), LONGEST) for name in [*runners, *notes]) * BOLD + 12
    marks = []
    for place, (runner, note) in enumerate(zip(runners, notes, strict=True)):
        y = HEAD + HEIGHT * (place + 0.5) + (-2 if note else 4)
        name = label(width - 6, y, shorten(runner, LONGEST), "head", "end")
        kind = "state" if note == "unavailable" else "over-count"
        below = label(width - 6, y + 13, shorten(note, LONGEST), kind, "end") if note else None
        marks.append(element("g", element("title", runner), name, below))
    return picture("Names of the runners", *marks, width=width, height=height, fixed=True)


def _cells(runner: str, columns: Sequence[Column], cells: Cells, top: float) -> list[Markup]:
    marks = []
    for check, dtype, left, width in columns:
        found = cells.get((runner, check, dtype))
        blank = label(left + width / 2, top + HEIGHT / 2 + 4, "·", "state")
        marks.append(draw(found, left, top, width) if found else blank)
    return marks


def _absent(state: Row, top: float, width: float) -> Markup:
    """The line of a runner without results: why."""
    reason = text(state, "detail") or "no results"
    words = label(GAP + 4, top + HEIGHT / 2 + 4, shorten(reason, int(width / LETTER) - 2), "state", "start")
    return element("g", element("title", reason), words)


def _ran(state: Row) -> bool:
    return text(state, "state") in ("ran", "")


def _hatch() -> Markup:
    stripes = element("path", d="M0 6L6 0M-1 1L1 -1M5 7L7 5", class_="stripe")
    size = {"width": 6, "height": 6, "patternUnits": "userSpaceOnUse"}
    return element("defs", element("pattern", stripes, id=HATCH, **size))
