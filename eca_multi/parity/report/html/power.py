"""What the cases can see: the faults that were planted in the reference, and which of them the verdict found."""

from .formats import NONE, count
from .markup import Markup, element
from .read import DTYPES, Row, case_order, in_order, rows, sequence, text
from .tables import row, table


def power(report: Row) -> Markup | None:
    """Return the section's content, or None where no faults were planted."""
    found = {(text(entry, "case"), text(entry, "dtype")): entry for entry in rows(report, "power")}
    if not found:
        return None
    cases = sorted({case for case, _ in found}, key=case_order(report))
    dtypes = in_order((dtype for _, dtype in found), DTYPES)
    body = [row(case, *(_cell(found.get((case, dtype))) for dtype in dtypes)) for case in cases]
    return table("Power of the cases", ("Case", *dtypes), body, class_="prose")


def _cell(entry: Row | None) -> Markup:
    if entry is None:
        return element("td", NONE)
    killed, survived, idle = (
        sorted(map(str, sequence(entry, key))) for key in ("killed", "survived", "not_applicable")
    )
    alive = [element("b", "◆\u00a0", class_="mark"), f"missed: {', '.join(survived)}"] if survived else []
    title = f"found: {', '.join(killed) or 'none'}; not applicable: {', '.join(idle) or 'none'}"
    total = len(killed) + len(survived)
    shown = f"{len(killed)} of {count(total, 'fault')}" if total else "none applies"
    return element("td", shown, *([element("br"), *alive] if alive else []), title=title)
