"""Every tensor that failed, the worst first, with what is needed to see why."""

from collections.abc import Sequence

from .formats import NONE, check_name, count, index, plain, use
from .markup import Markup, element, join, shorten
from .read import Row, number, rows, runner_names, text
from .tables import cross, figure, fold, group, row, table
from .verdicts import fails, severity, words

OPENLY = 8  # rows of a runner that are shown before the rest is folded
LINE = 100  # letters of a reason that stay on its row
VALUE = 20  # letters of an expected or received value
INFORM = {
    "max_abs": "Max error",
    "max_ulp": "Max ULP",
    "max_rel": "Max relative",
    "snr_db": "SNR (dB)",
    "peer_ratio": "Peer ratio",
}
HEAD = ("Case", "Dtype", "Check", "Tensor", "Verdict", "Use", "Min c", "At", "Expected", "Received", *INFORM.values())
UNMEASURED = frozenset({"SHAPE_MISMATCH", "DTYPE_MISMATCH", "MISSING_TAP", "ERROR"})


def failures(report: Row) -> Markup | None:
    """Return the section's content, or None where nothing failed."""
    found: dict[str, list[Row]] = {name: [] for name in runner_names(report)}
    for result in _merged([result for result in rows(report, "results") if fails(result)]):
        found[text(result, "runner")].append(result)
    failed = {runner: sorted(own, key=_worst_first) for runner, own in found.items() if own}
    if not failed:
        return None
    first = {runner: own[:OPENLY] for runner, own in failed.items()}
    rest = {runner: own[OPENLY:] for runner, own in failed.items() if own[OPENLY:]}
    folded = sum(map(len, rest.values()))
    return join(
        _replay(text(report, "replay")),
        _table("Failures", first, failed),
        fold(f"{count(folded, 'more row')}", _table("Further failures", rest, failed)) if rest else None,
    )


def _merged(results: Sequence[Row]) -> list[Row]:
    """The errors of one job as one row that names all its tensors: they have one cause."""
    jobs: dict[tuple[str, ...], list[Row]] = {}
    for place, result in enumerate(results):
        job = tuple(text(result, key) for key in ("runner", "case", "dtype", "check", "reason"))
        jobs.setdefault(job if text(result, "verdict") == "ERROR" else (str(place),), []).append(result)
    return [{**job[0], "tensor": ", ".join(sorted({text(row, "tensor") for row in job}))} for job in jobs.values()]


def _table(caption: str, shown: dict[str, list[Row]], all_: dict[str, list[Row]]) -> Markup:
    heads = [group(runner, count(len(all_[runner]), "failure"), len(HEAD)) for runner in shown]
    bodies = [[line for result in own for line in _lines(result)] for own in shown.values()]
    groups = ([head, *body] for head, body in zip(heads, bodies, strict=True))
    return table(caption, HEAD, *groups, text=HEAD.index("Use"))


def _lines(result: Row) -> list[Markup]:
    """The row of a tensor, and below it its reason; a long one opens on demand."""
    verdict = text(result, "verdict")
    measured = number(result, "budget_use")
    manual = element("span", "by hand ", class_="note") if text(result, "budget") == "manual" else None
    shown = row(
        text(result, "case"),
        text(result, "dtype"),
        check_name(text(result, "check")),
        element("td", element("code", text(result, "tensor"))),
        element("td", cross(), words(verdict)),
        element("td", manual, NONE if measured is None and verdict in UNMEASURED else use(measured), class_="number"),
        figure(plain(number(result, "min_c"))),
        figure(index(result.get("index")) or NONE),
        *(figure(shorten(text(result, key), VALUE) or NONE) for key in ("expected", "received")),
        *(figure(plain(number(result, key))) for key in INFORM),
    )
    reason = text(result, "reason").strip()
    if not reason:
        return [shown]
    summary = shorten(reason.splitlines()[-1], LINE)
    whole = element("p", reason, class_="reason")
    detail = whole if summary == reason else fold(summary, element("pre", reason, class_="reason"))
    return [shown, element("tr", element("td", detail, colspan=len(HEAD)), class_="detail")]


def _replay(command: str) -> Markup | None:
    if not command:
        return None
    return element("p", "Run a failing job again: ", element("code", command, class_="command"))


def _worst_first(result: Row) -> tuple[float, str, str, str, str]:
    case, dtype, check, tensor = (text(result, key) for key in ("case", "dtype", "check", "tensor"))
    return -severity(result)[1], case, dtype, check, tensor
