"""A report on the terminal: the matrix, then only what failed, then the environment."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .budget import DTYPES, SAFETY
from .report import Cell, Report, RunnerState, describe

MOST = 20  # failing tensors that are listed; --json has all


def render(report: Report, console: Console, seconds: float) -> None:
    console.print(_matrix(report))
    console.print(
        f"Largest share of the error budget that was used (above 1 fails), and where. "
        f"Budget: {SAFETY:g} x the analytic rounding error against the float64 oracle.",
        style="dim",
    )
    _print_failures(report, console)
    console.print(_environment(report), style="dim", highlight=False)
    console.print(f"{_verdict(report)} {seconds:.0f} s.")


def _matrix(report: Report) -> Table:
    present = {cell.dtype for cell in report.cells}
    dtypes = [dtype for dtype in DTYPES if dtype in present]
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("runner", no_wrap=True)
    for dtype in dtypes:
        table.add_column(dtype)
    table.add_column("")
    for state in report.runners:
        cells = [_cell(report.worst(state.name, dtype)) for dtype in dtypes]
        table.add_row(escape(state.name), *cells, "" if state.state == "ran" else _state(state))
    return table


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "[dim]-[/dim]"
    use = cell.judgement.budget_use
    colour = "green" if cell.green else "bold red"
    text = f"{use:.2f}" if use < 100 else f"{use:.0e}" if use < float("inf") else cell.judgement.verdict.value
    return f"[{colour}]{text}[/{colour}] {cell.case} {cell.tensor}"


def _state(state: RunnerState) -> str:
    return f"[yellow]{state.state}[/yellow]" if state.state == "unavailable" else f"[red]{state.state}[/red]"


def _print_failures(report: Report, console: Console) -> None:
    for state in report.runners:
        if state.detail:
            console.print(f"{_state(state)} {escape(state.name)}: {escape(state.detail)}", highlight=False)
    for cell in report.failures[:MOST]:
        console.print(f"[red]FAIL[/red] {escape(describe(cell))}", highlight=False, soft_wrap=True)
    if len(report.failures) > MOST:
        console.print(f"... and {len(report.failures) - MOST} more; --json FILE lists all.")


def _environment(report: Report) -> str:
    versions: dict[str, str] = {}
    for state in report.runners:
        versions |= state.versions
    environment = report.environment
    parts = [f"python {environment['python']}", *(f"{name} {versions[name]}" for name in sorted(versions))]
    return f"{', '.join(parts)}\n{environment['platform']}, {environment['processor']}"


def _verdict(report: Report) -> str:
    total, failed = len(report.cells), len(report.failures)
    ran = sum(1 for state in report.runners if state.state == "ran")
    counts = f"{total - failed} of {total} tensors within budget, {ran} of {len(report.runners)} runners ran"
    if report.exit_code == 0:
        return f"[bold green]All agree[/bold green]: {counts}."
    reasons = {
        "They do not agree": report.disagreements,
        "A required runner is missing": report.missing,
        "A runner raised, crashed or timed out": report.exit_code == 3,
        "Nothing was compared": report.exit_code == 4,
    }
    reason = ". ".join(text for text, holds in reasons.items() if holds)
    return f"[bold red]{reason}[/bold red]: {counts}."
