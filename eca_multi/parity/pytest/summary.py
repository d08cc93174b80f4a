"""The matrix at the end of a pytest run."""

import io

from eca_multi._terminal import Terminal
from eca_multi.parity.report.report import Report
from eca_multi.parity.report.terminal import matrix
from eca_multi.parity.report.view import View


def summary(report: Report, *, width: int, colour: bool) -> str:
    """Return the matrix and the counts of one specification's report."""
    console = Terminal(file=io.StringIO(), width=width, force_terminal=colour)
    good, bad = sum(cell.green for cell in report.cells), len(report.failures)
    with console.capture() as captured:
        console.print(matrix(View(report.to_dict())))
    counts = f"{good} tensors agree, {bad} do not, {len(report.cells) - good - bad} were not compared"
    return f"{captured.get()}{counts}; {len(report.ran)} of {len(report.asked)} runners ran"
