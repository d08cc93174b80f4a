"""The outcome of one test: skip, failure or success, and the text of the failure."""

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from eca_multi._printable import printable
from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.runners import REFERENCE
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.compare import Verdict
from eca_multi.parity.report.report import ParityError, Report, describe
from eca_multi.parity.report.view import View
from eca_multi.parity.report.view.results import Result

from .marks import ParityCase
from .results import Results

MOST = 20  # lines of an adapter's traceback in a failure


@dataclass(frozen=True)
class Outcome:
    """The outcome of one test.

    Args:
        skip, crash: The reason to skip, and the text of a failure before any comparison; "" without one.
        rounding: Whose rounding is over the budget, where nothing else is; "" where there is none.
        error: The exception that the assertion raises; None if the tensors agree.
        verdict, budget_use: The worst verdict, and the largest use of an error budget.
    """

    skip: str = ""
    crash: str = ""
    rounding: str = ""
    error: Exception | None = None
    verdict: str = ""
    budget_use: float | None = None

    def __post_init__(self) -> None:
        """Make a worker's text safe for the terminal, to which pytest prints it."""
        for name in ("skip", "crash", "rounding"):
            object.__setattr__(self, name, printable(getattr(self, name), lines=True))

    @property
    def properties(self) -> list[tuple[str, object]]:
        """Properties of the test in pytest's own JUnit report."""
        use = "" if self.budget_use is None else f"{self.budget_use:.6g}"
        return [(name, value) for name, value in (("verdict", self.verdict), ("budget_use", use)) if value]


def outcome(results: Results, case: ParityCase, node: str) -> Outcome:
    """Return the outcome of a test, after the run that it shares with others; `node` is the test's id."""
    try:
        report = results.report_of(case)
    except SpecError as error:  # the text says what is wrong with the reference or the data
        return Outcome(crash=str(error))
    required = results.requires(case.runner)
    state = next(state for state in report.runners if state.name == case.runner)
    if state.state == "unavailable":
        reason = f"{case.runner}: {state.detail}"
        return Outcome(error=ParityError(f"{reason} (--parity-require)")) if required else Outcome(skip=reason)
    cells = [cell for cell in report.cells if belongs(cell, case)]
    if not cells and state.state != "ran":
        return Outcome(crash=f"{case.runner} {state.state}: {state.detail}", verdict=state.state)
    if not cells:
        return Outcome(skip=f"{case}: there is nothing to compare")
    reference = next((state for state in report.runners if state.name == REFERENCE), None)
    if reference is not None and any(cell.verdict is Verdict.INCONCLUSIVE for cell in cells):  # it has died
        return Outcome(crash=f"the reference {reference.state}: {reference.detail}", verdict=reference.state)
    rounding = [cell for cell in cells if cell.verdict is Verdict.ROUNDING]
    bad = [cell for cell in cells if (cell.fails and not cell.is_open_tap) or (results.strict and cell in rounding)]
    uses = [cell.judgement.budget_use for cell in cells if cell.judgement.budget_use is not None]
    use = max(uses, default=None)
    if bad:
        differs = any(cell.verdict.disagrees or cell.verdict is Verdict.ROUNDING for cell in bad)
        kind = ParityError if differs else RuntimeError
        disagreement = kind(failure(case, report, cells, bad, node))
        return Outcome(error=disagreement, verdict=worst(bad).verdict.value, budget_use=use)
    if rounding:
        off = worst(rounding)
        return Outcome(rounding=describe(off), verdict=off.verdict.value, budget_use=use)
    compared = [cell for cell in cells if cell.green]
    if not compared:
        return Outcome(skip=f"{case.runner} {case.check}: {cells[0].reason}", verdict=Verdict.UNSUPPORTED.value)
    return Outcome(verdict=worst(compared).verdict.value, budget_use=use)


def belongs(cell: Cell, case: ParityCase) -> bool:
    """Whether a report's cell belongs to a test. The check nonfinite has cases with names such as "offsets+nan"."""
    name = cell.case.rpartition("+")[0] if case.check == "nonfinite" else cell.case
    return (cell.runner, name, cell.dtype, cell.check) == (case.runner, *case.place)


def worst(cells: Sequence[Cell]) -> Cell:
    return max(cells, key=lambda c: (c.verdict.disagrees, math.inf if (use := c.judgement.budget_use) is None else use))


def failure(case: ParityCase, report: Report, cells: Sequence[Cell], bad: Sequence[Cell], node: str) -> str:
    """Return the text of a failure: the worst tensor, a table of all, where the failure begins, how to repeat it."""
    everywhere = [x for x in View(report.to_dict()).causes if x.runner == case.runner]
    mine = [cause for cause in everywhere if any(_is_of(result, case) for result in cause.results)]
    parts = [describe(worst(bad)), *(cause.extent for cause in mine if cause.extent), table(cells)]
    raised = next((cell.reason for cell in bad if cell.verdict is Verdict.ERROR), "")
    if raised:
        parts.append("\n".join(raised.strip().splitlines()[-MOST:]))
    localisations = [x for x in report.localisations if (x.runner, x.dtype) == (case.runner, case.dtype)]
    # One case of each runner and dtype is localised; its answer says where to look in the other cases too.
    localisations = [x for x in localisations if x.case.split("+")[0] == case.case] or localisations
    parts += [item.line for item in localisations[:1]]
    return printable("\n\n".join([*parts, f"again: {command(case, node)}"]), lines=True)


def _is_of(result: Result, case: ParityCase) -> bool:
    return (result.case.split("+")[0], result.dtype, result.check) == case.place


def table(cells: Sequence[Cell]) -> str:
    head = ("tensor", "verdict", "budget use", "reach", "worst index", "expected", "received")
    rows = [head]
    for cell in cells:
        j = cell.judgement
        name = cell.tensor if "+" not in cell.case else f"{cell.tensor} ({cell.case.rpartition('+')[2]})"
        use = "-" if j.budget_use is None else f"{j.budget_use:.3g}"
        index = str(list(j.index)) if j.index else "-"
        reach = "-" if j.reach is None else f"{j.reach:.3g}"
        rows.append((name, j.verdict.value, use, reach, index, j.expected or "-", j.received or "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def command(case: ParityCase, node: str) -> str:
    """Return the command that runs a test's cell again: without pytest, if the specification has a name."""
    if not case.source:
        return f"pytest {shlex.quote(node)}"
    names = {"runner": _short(case.argument), "dtype": case.dtype, "case": case.case, "check": case.check}
    options = [text for name, value in names.items() for text in (f"--{name}", value)]
    return shlex.join(["eca-multi", "parity", _short(case.source), "run", *options])


def _short(source: str) -> str:
    """Return a path relative to the working directory, if it lies below."""
    return source.removeprefix(f"{os.getcwd()}{os.sep}")
