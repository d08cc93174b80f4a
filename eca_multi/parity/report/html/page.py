"""The page: the sections that have something to show, in the order in which a reader asks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from .banner import banner
from .chain import chain
from .drift import drift
from .facts import cases, environment, runners
from .failures import failures
from .fingerprint import fingerprint
from .histogram import histogram
from .markup import Markup, element, join
from .matrix import matrix
from .power import power
from .read import Row, mapping, text
from .scatter import scatter
from .undecided import undecided

# Nothing is fetched, nothing runs: the browser is told so too.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Section:
    """A part of the page. `draw` returns None where there is nothing to show; `how` says how to read it."""

    id: str
    title: str
    how: str
    draw: Callable[[Row], Markup | None]


SECTIONS = (
    Section(
        "matrix",
        "Budget use",
        "Each cell is the largest share of its error budget that any tensor of a runner used, in one check and dtype. "
        "1 is the whole budget; more fails. Blue cells pass, orange ones with a ring and a cross fail. "
        "Its worst case and tensor show when it is pointed at, and in the table.",
        matrix,
    ),
    Section(
        "failures",
        "Failures",
        "One row for each tensor, the worst of each runner first. “Use” is the share of the budget, “min c” the safety "
        "factor with which the tensor would pass; the place and both values are those of its worst element. What is to "
        "the right of them informs and decides nothing.",
        failures,
    ),
    Section(
        "undecided",
        "Without a verdict",
        "Not supported, as the runner declares; or inconclusive, because the case could not have shown a fault.",
        undecided,
    ),
    Section(
        "chain",
        "First divergence",
        "The values on the way through the layer (↓) and back (↑), from top to bottom. A hollow circle is the error as "
        "it arrives, a full one the error that this step adds when it is given correct input, both as a share of the "
        "budget; the dashed line is the limit. The first step whose own error is over it is the culprit (✕).",
        chain,
    ),
    Section(
        "scatter",
        "Error against magnitude",
        "The elements of the tensors that use most of their budget, two in each dtype. A dot is within its budget, a "
        "cross is over it; the dashed line is the budget, the tinted region above it fails. Both axes are logarithmic; "
        "zero has a place of its own at their beginning.",
        scatter,
    ),
    Section(
        "histogram",
        "Error as a share of the budget",
        "Bars: this tensor. Line: all tensors of the dtype that were recorded. Each bin is twice as wide as the one "
        "before; exact elements stand on the left, those over the budget on the right. A fault of method moves the "
        "whole shape to the right, a fault in few elements leaves a tail.",
        histogram,
    ),
    Section(
        "drift",
        "Drift in training",
        "How far the weights of a runner are from the reference's as training goes on. The shaded band is how far "
        "rounding alone would carry them; a line that leaves it is bold and named. Of lines that coincide the last one "
        "is seen. Both axes are logarithmic. The verdict rests on single steps, in the table below.",
        drift,
    ),
    Section(
        "fingerprint",
        "Differences in numerics",
        "Probes of how a runner calculates, as far as the answers differ. ◆ marks the runners that are alone or few.",
        fingerprint,
    ),
    Section(
        "power",
        "Power of the cases",
        "Faults planted on purpose, and how many of them a case finds. ◆ marks those that it misses: it could not have "
        "seen them in a runner either.",
        power,
    ),
    Section("cases", "Cases", "What each case is there to show.", cases),
    Section("runners", "Runners", "How each runner ended, and the versions that it stood on.", runners),
    Section("environment", "Environment", "The machine, the specification and the error model.", environment),
)


def to_html(report: Mapping[str, Any]) -> str:
    """Return the report as one HTML page that stands alone: equal reports give equal bytes.

    Args:
        report: The JSON report, schema 2. What it lacks is left out.

    Example:
        >>> from eca_multi.parity.report.html import to_html
        >>> to_html({"exit_code": 4}).startswith("<!doctype html>")
        True
    """
    drawn = [(section, content) for section in SECTIONS if (content := section.draw(report))]
    title = f"Numeric parity of {text(mapping(report, 'spec'), 'name') or 'a layer'}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(files(__package__).joinpath("style.css").read_text(encoding="utf-8"))),
    )
    links = [element("li", element("a", section.title, href=f"#{section.id}")) for section, _ in drawn]
    contents = element("nav", element("ul", *links), aria_label="Sections") if links else None
    main = element("main", *(_section(section, content) for section, content in drawn))
    page = element("html", head, element("body", banner(report), contents, main), lang="en")
    return join(Markup("<!doctype html>\n"), page, "\n")


def _section(section: Section, content: Markup) -> Markup:
    heading = f"{section.id}-title"
    how = element("p", section.how, class_="how")
    return element(
        "section", element("h2", section.title, id=heading), how, content, id=section.id, aria_labelledby=heading
    )
