"""What neither passed nor failed, by reason: what a runner does not do, and what a case could not have shown."""

from collections.abc import Sequence

from .formats import NONE, check_name, count
from .markup import Markup, element
from .read import Row, ranking, rows, runner_names, text
from .tables import fold, row, table
from .verdicts import OPEN, words

FEW = 3  # tensors that are listed openly


def undecided(report: Row) -> Markup | None:
    """Return the section's content, or None where every tensor has a verdict."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for result in rows(report, "results"):
        if text(result, "verdict") in OPEN:
            groups.setdefault((text(result, "verdict"), text(result, "reason")), []).append(result)
    if not groups:
        return None
    order = ranking(runner_names(report))
    body = []
    for verdict, reason in sorted(groups):
        runners = sorted({text(result, "runner") for result in groups[verdict, reason]}, key=order)
        body.append(row(words(verdict), reason or NONE, ", ".join(runners), _tensors(groups[verdict, reason])))
    return table("Without a verdict", ("Verdict", "Reason", "Runners", "Tensors"), body, class_="prose")


def _tensors(results: Sequence[Row]) -> Markup:
    names = sorted({_name(result) for result in results})
    listed = element("p", "; ".join(names))
    return element("td", listed if len(names) <= FEW else fold(count(len(names), "tensor"), listed))


def _name(result: Row) -> str:
    case, dtype, check, tensor = (text(result, key) for key in ("case", "dtype", "check", "tensor"))
    return f"{case} {dtype} {check_name(check)} {tensor}"
