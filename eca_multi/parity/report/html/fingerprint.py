"""The probes of numerics in which runners differ, and which runners are alone in their answer or few."""

from collections.abc import Mapping
from typing import Any

from eca_multi.parity.explain.fingerprints import PROBES

from .formats import count, value_text
from .markup import Markup, breakable, element, join
from .read import Row, mapping, rows, text
from .tables import table


def fingerprint(report: Row) -> Markup | None:
    """Return the section's content, or None where no two runners differ."""
    prints = {text(runner, "name"): mapping(runner, "fingerprint") for runner in rows(report, "runners")}
    probes = sorted({str(probe) for answers in prints.values() for probe in answers})
    answers = {probe: _answers(probe, prints) for probe in probes}
    differing = [probe for probe in probes if len(answers[probe]) > 1]
    if not differing:
        return None
    groups = [_rows(probe, answers[probe]) for probe in differing]
    agreed = f"{len(probes) - len(differing)} of {count(len(probes), 'probe')} have the same answer everywhere."
    shown = table("Differences in numerics", ("Probe", "Answer", "Runners"), *groups, class_="prose")
    return join(shown, element("p", agreed, class_="note"))


def _answers(probe: str, prints: Mapping[str, Mapping[Any, Any]]) -> dict[str, list[str]]:
    """The runners of each answer to a probe, the most common answer first. Who has none ("n/a") is left out."""
    answers: dict[str, list[str]] = {}
    for runner, found in prints.items():
        if found.get(probe, "n/a") != "n/a":
            answers.setdefault(value_text(found[probe]), []).append(runner)
    return dict(sorted(answers.items(), key=lambda answer: (-len(answer[1]), answer[0])))


def _rows(probe: str, answers: Mapping[str, list[str]]) -> list[Markup]:
    """One row for each answer. Those with fewer runners than the first are the minority, and marked."""
    most = max(map(len, answers.values()))
    lines: list[Markup] = []
    for answer, runners in answers.items():
        few = len(runners) < most
        meaning = element("p", PROBES[probe], class_="note") if probe in PROBES else None
        name = None if lines else element("th", breakable(probe), meaning, scope="rowgroup", rowspan=len(answers))
        mark = element("b", "◆ ", class_="mark") if few else None
        cells = (element("td", mark, answer), element("td", ", ".join(runners)))
        lines.append(element("tr", name, *cells, class_="minority" if few else None))
    return lines
