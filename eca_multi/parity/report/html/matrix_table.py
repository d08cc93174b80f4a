"""The matrix once more as a table: for screen readers, for copying, and for paper."""

from collections.abc import Mapping, Sequence

from .cells import shown, where
from .formats import NONE, check_name
from .markup import Markup, element
from .read import Row
from .tables import cross, figure, fold, row, scroll
from .verdicts import fails, worst

Cells = Mapping[tuple[str, str, str], Sequence[Row]]


def as_table(runners: Sequence[str], columns: Sequence[tuple[str, str]], cells: Cells) -> Markup:
    groups = list(dict.fromkeys(check for check, _ in columns))
    spans = {group: sum(check == group for check, _ in columns) for group in groups}
    head = element(
        "thead",
        element(
            "tr",
            element("th", "Runner", scope="col", rowspan=2),
            *(element("th", check_name(group), scope="colgroup", colspan=spans[group]) for group in groups),
        ),
        element("tr", *(element("th", dtype, scope="col") for _, dtype in columns)),
    )
    body = [row(name, *(_cell(cells.get((name, *column))) for column in columns)) for name in runners]
    caption = element("caption", "Worst budget use, with its case and tensor")
    content = element("table", caption, head, element("tbody", *body))
    return fold("The same as a table", scroll("Budget use as a table", content))


def _cell(found: Sequence[Row] | None) -> Markup:
    if found is None:
        return figure(NONE)
    result = worst(found)
    failed = cross() if fails(result) else None
    place = element("span", where(result), class_="note")
    return element("td", failed, shown(found), " ", place, class_="number")
