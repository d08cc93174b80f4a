"""What a report says of one test: whether it skips, fails or passes, and the text of the failure."""

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from eca_multi._printable import printable
from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.runners import REFERENCE
from eca_multi.parity.judge.cell import Cell, describe
from eca_multi.parity.judge.compare import Verdict
from eca_multi.parity.report.report import ParityError, Report

from .marks import ParityCase
from .results import Results

MOST = 20  # lines of an adapter's traceback


@dataclass(frozen=True)
class Outcome:
    """`skip` and `crash` are reasons, "" where they do not hold; `error` is what the assertion raises."""

    skip: str = ""
    crash: str = ""
    error: Exception | None = None
    verdict: str = ""
    budget_use: float | None = None

    def __post_init__(self) -> None:
        """A worker's words go through pytest to the terminal."""
        for name in ("skip", "crash"):
            object.__setattr__(self, name, printable(getattr(self, name), lines=True))

    @property
    def properties(self) -> list[tuple[str, object]]:
        """What a JUnit report of pytest's own shows beside the test."""
        use = "" if self.budget_use is None else f"{self.budget_use:.6g}"
        return [(name, value) for name, value in (("verdict", self.verdict), ("budget_use", use)) if value]


def outcome(results: Results, case: ParityCase, node: str) -> Outcome:
    """Judge one test, after the run that it shares; `node` is its own id."""
    try:
        report = results.report_of(case)
    except SpecError as error:  # the reference or the data are wrong, and the line says how
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
    bad = [cell for cell in cells if not cell.green and cell.verdict is not Verdict.UNSUPPORTED]
    uses = [cell.judgement.budget_use for cell in cells if cell.judgement.budget_use is not None]
    use = max(uses, default=None)
    if bad:
        kind = ParityError if any(cell.verdict.disagrees for cell in bad) else RuntimeError
        disagreement = kind(failure(case, report, cells, bad, node))
        return Outcome(error=disagreement, verdict=worst(bad).verdict.value, budget_use=use)
    compared = [cell for cell in cells if cell.green]
    if not compared:
        return Outcome(skip=f"{case.runner} {case.check}: {cells[0].reason}", verdict=Verdict.UNSUPPORTED.value)
    return Outcome(verdict=worst(compared).verdict.value, budget_use=use)


def belongs(cell: Cell, case: ParityCase) -> bool:
    """Whether a report's cell is one of a test's. The check nonfinite has cases of its own, "offsets+nan"."""
    name = cell.case.rpartition("+")[0] if case.check == "nonfinite" else cell.case
    return (cell.runner, name, cell.dtype, cell.check) == (case.runner, *case.place)


def worst(cells: Sequence[Cell]) -> Cell:
    def severity(cell: Cell) -> tuple[bool, float]:
        use = cell.judgement.budget_use
        return cell.verdict.disagrees, math.inf if use is None else use

    return max(cells, key=severity)


def failure(case: ParityCase, report: Report, cells: Sequence[Cell], bad: Sequence[Cell], node: str) -> str:
    """Return the text: the worst tensor in one line, all of them as a table, where it begins, how to repeat it."""
    parts = [describe(worst(bad)), table(cells)]
    raised = next((cell.reason for cell in bad if cell.verdict is Verdict.ERROR), "")
    if raised:
        parts.append("\n".join(raised.strip().splitlines()[-MOST:]))
    found = [x for x in report.localisations if (x.runner, x.dtype) == (case.runner, case.dtype)]
    # One case of each runner and dtype is looked into; for another case its answer still says where to look.
    found = [x for x in found if x.case.split("+")[0] == case.case] or found
    parts += [item.line for item in found[:1]]
    return printable("\n\n".join([*parts, f"again: {command(case, node)}"]), lines=True)


def table(cells: Sequence[Cell]) -> str:
    """Return one line for each tensor."""
    head = ("tensor", "verdict", "budget use", "worst index", "expected", "received")
    rows = [head]
    for cell in cells:
        j = cell.judgement
        name = cell.tensor if "+" not in cell.case else f"{cell.tensor} ({cell.case.rpartition('+')[2]})"
        use = "-" if j.budget_use is None else f"{j.budget_use:.3g}"
        index = str(list(j.index)) if j.index else "-"
        rows.append((name, j.verdict.value, use, index, j.expected or "-", j.received or "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def command(case: ParityCase, node: str) -> str:
    """Return what runs a test's cell again: without pytest, where the specification has a name."""
    if not case.source:
        return f"pytest {shlex.quote(node)}"
    names = {"runner": _short(case.argument), "dtype": case.dtype, "case": case.case, "check": case.check}
    options = [text for name, value in names.items() for text in (f"--{name}", value)]
    return shlex.join(["eca-multi", "parity", _short(case.source), "run", *options])


def _short(source: str) -> str:
    """A path below the working directory without it."""
    return source.removeprefix(f"{os.getcwd()}{os.sep}")
