"""The page: the sections that have something to show, in the order in which a reader asks."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment

from eca_multi._page.environment import environment, style_sheet
from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.explain.fingerprints import PROBES
from eca_multi.parity.report.view import View, elements, wording
from eca_multi.parity.report.view.causes import Cause, causes
from eca_multi.parity.report.view.reading import in_order
from eca_multi.parity.report.view.results import Group, Result

from .pictures import SIGNS, Pictures

EDGES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 4.0, 16.0)  # of the budget use, where a cell's colour changes
INFORM = {
    "max_abs": "Max error", "max_ulp": "Max ULP", "max_rel": "Max relative", "snr_db": "SNR (dB)",
    "peer_ratio": "Peer ratio",
}  # fmt: skip
OPENLY = 8  # failures of a runner that are shown before the rest is folded


# Id, title and content of each section; `templates/ID.html.j2` shows the content, if there is any.
SECTIONS: tuple[tuple[str, str, Callable[[View], Any]], ...] = (
    ("matrix", "Budget use", lambda view: view.cells),
    ("failures", "Failures", lambda view: view.failures),
    ("rounding", "Rounding of the frameworks", lambda view: view.rounding_reasons),
    ("undecided", "Without a verdict", lambda view: view.open_reasons),
    ("chain", "First divergence", lambda view: view.localisations),
    ("scatter", "Error against magnitude", lambda view: elements.shown([p for p in view.profiles if p.points])),
    ("histogram", "Error as a share of the budget", lambda view: histograms(view)),
    ("drift", "Drift in training", lambda view: view.trainings),
    ("fingerprint", "Differences in numerics", lambda view: fingerprints(view)),
    ("power", "Power of the cases", lambda view: {(p.case, p.dtype): p for p in view.power}),
    ("sight", "What the cases cannot see", lambda view: view.blind),
    ("reach", "Reach of the budgets", lambda view: view.reach),
    ("cases", "Cases", lambda view: view.cases),
    ("runners", "Runners", lambda view: view.runners),
    ("environment", "Environment", lambda view: view.facts),
)


def render(report: Mapping[str, Any]) -> str:
    view = View(report)
    sections = [(name, title, content) for name, title, find in SECTIONS if (content := find(view))]
    title = f"Numeric parity of {view.name}" if view.name else "Numeric parity"
    page = templates().get_template("page.html.j2")
    return page.render(view=view, title=title, sections=sections, pictures=Pictures())


@cache
def templates() -> Environment:
    made = environment(__package__, style_sheet(__package__))
    made.globals.update(
        colour=colour, inform=INFORM, openly=OPENLY, signs=SIGNS, dash=wording.NONE, probes=PROBES, merged=merged,
        in_order=in_order, all_dtypes=DTYPES,
    )  # fmt: skip
    made.filters.update(
        use=wording.use, plain=wording.plain, words=wording.words, value=wording.value_text,
        reach=wording.reach_words, short_dtype=wording.short_dtype, counted=wording.count,
    )  # fmt: skip
    return made


def colour(group: Group) -> str:
    """Return the step of the colour scale; no pass has one from beyond the limit, no failure one from below it."""
    worst, limit = group.worst, EDGES.index(1.0)
    if worst.is_open or worst.is_rounding:
        return "open"
    if worst.verdict == "BITWISE":
        return "u0"
    step = sum((worst.budget_use or 0.0) > edge for edge in EDGES)
    if worst.is_green:
        return f"u{min(step, limit)}"
    return f"u{len(EDGES) if worst.budget_use is None else max(step, limit + 1)}"


def merged(results: Sequence[Result], view: View) -> list[Cause]:
    """Return the causes of a runner's failures, a row for each."""
    return causes(results, view.localisations)


def histograms(view: View) -> list[tuple[elements.Profile, list[float]]]:
    """Return the profiles to show, each with the counts of all tensors of its dtype."""
    counted = [profile for profile in view.profiles if profile.counts]
    sums = {
        dtype: [sum(column) for column in zip(*(p.counts for p in counted if p.result.dtype == dtype), strict=True)]
        for dtype in {profile.result.dtype for profile in counted}
    }
    return [(profile, sums[profile.result.dtype]) for profile in elements.shown(counted)]


def fingerprints(view: View) -> tuple[dict[str, dict[str, list[str]]], int] | None:
    """Return the runners of each answer to each probe that runners differ in, and the number of all probes.

    The most common answer comes first; a runner without an answer ("n/a") is left out. None where no two differ.
    """
    probes: dict[str, dict[str, list[str]]] = {}
    for runner in view.runners:
        for probe, answer in runner.fingerprint.items():
            answers = probes.setdefault(str(probe), {})
            if answer != "n/a":
                answers.setdefault(wording.value_text(answer), []).append(runner.name)
    differing = {
        probe: dict(sorted(probes[probe].items(), key=lambda answer: (-len(answer[1]), answer[0])))
        for probe in sorted(probes)
        if len(probes[probe]) > 1
    }
    return (differing, len(probes)) if differing else None
