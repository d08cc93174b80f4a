"""The matrix at the end of a pytest run."""

import io

from rich.console import Console

from .render import matrix
from .report import Report


def summary(report: Report, *, width: int, colour: bool) -> str:
    """Return what a run found of one specification: the matrix and the counts."""
    console = Console(file=io.StringIO(), width=width, force_terminal=colour, emoji=False)
    failed, total = len(report.failures), len(report.cells)
    ran = sum(state.state == "ran" for state in report.runners)
    with console.capture() as captured:
        console.print(matrix(report))
    counts = f"{total - failed} of {total} tensors are no failure, {ran} of {len(report.runners)} runners ran"
    return f"{captured.get()}{counts}"
