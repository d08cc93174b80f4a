"""The verdict: what came out, in one sentence, and the numbers behind it."""

from eca_multi.parity.define.runners import REFERENCE

from .formats import count
from .markup import Markup, element
from .plot import cross, path, picture
from .read import Row, mapping, rows, runner_names, sequence, text
from .verdicts import GREEN, OPEN, fails

OUTCOMES = {
    0: ("pass", "All agree"),
    1: ("fail", "They do not agree"),
    3: ("fail", "A runner raised, crashed or timed out"),
    4: ("fail", "Nothing conclusive"),
}


def banner(report: Row) -> Markup:
    code = report.get("exit_code")
    kind, outcome = OUTCOMES.get(code if isinstance(code, int) else -1, ("fail", "No outcome is recorded"))
    missing = _missing(report)
    if code == 1 and missing and not any(map(fails, rows(report, "results"))):
        outcome = "A required runner is missing"
    if code == 4 and not rows(report, "results"):
        outcome = "Nothing was compared"
    spec = mapping(report, "spec")
    title = f"Numeric parity of {text(spec, 'name')}" if text(spec, "name") else "Numeric parity"
    also = element("p", f"Required and missing: {', '.join(missing)}.") if missing else None
    sentence = element("p", _mark(kind), element("strong", outcome), class_="outcome")
    return element(
        "header", element("h1", title), sentence, element("p", _counts(report)), also, class_=f"banner {kind}"
    )


def _counts(report: Row) -> str:
    results = rows(report, "results")
    verdicts = [text(result, "verdict") for result in results]
    judged = sum(verdict not in OPEN for verdict in verdicts)
    good, undecided = sum(verdict in GREEN for verdict in verdicts), len(verdicts) - judged
    states = {text(runner, "name"): text(runner, "state") for runner in rows(report, "runners")}
    raised = {text(result, "runner") for result in results}
    raised -= {text(result, "runner") for result in results if text(result, "verdict") != "ERROR"}
    ran = sum(state in ("ran", "") and name not in raised for name, state in states.items())
    asked = [name for name in runner_names(report) if name != REFERENCE]  # which is there where it has died
    parts = [f"{good:,} of {count(judged, 'tensor')} within budget"]
    parts += [f"{undecided:,} without a verdict"] if undecided else []
    parts += [f"{ran} of {count(len(asked), 'runner')} ran to the end"] if states else []
    parts += [count(len(rows(report, "cases")) or len({text(result, "case") for result in results}), "case")]
    return " · ".join(parts)


def _missing(report: Row) -> list[str]:
    states = {text(runner, "name"): text(runner, "state") for runner in rows(report, "runners")}
    required = sorted(map(str, sequence(report, "required")))
    return [name for name in required if states.get(name, "unavailable") == "unavailable"]


def _mark(kind: str) -> Markup:
    disc = element("circle", cx=12, cy=12, r=12, class_="disc")
    tick = element("path", d=path([(6.5, 12.5), (10.5, 16.5), (17.5, 8)]), class_="glyph")
    mark = tick if kind == "pass" else cross(12, 12, "glyph", 4.5)
    return picture("passed" if kind == "pass" else "failed", disc, mark, width=24, height=24, fixed=True)
