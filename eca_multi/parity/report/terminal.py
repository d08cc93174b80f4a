"""What the command line prints: the matrix, then only what failed, then the environment."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from eca_multi._terminal import Terminal, lines, styled
from eca_multi.parity.define.checks import BASE, CHECKS
from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.explain.localisation import Localisation
from eca_multi.parity.judge.cell import Cell, describe
from eca_multi.parity.judge.compare import Judgement, Verdict

from .report import Report

MOST = 20  # failing tensors that are listed; --json has all
BUDGETS = {
    "analytic": "the analytic rounding error against the float64 reference",
    "stochastic": "the error of 16 float64 re-runs with rounding noise",
    "manual": "the tolerance given by hand",
}


def render(report: Report, console: Terminal, seconds: float) -> None:
    console.print(matrix(report))
    kind = report.spec.get("budget", "")
    if kind in BUDGETS:
        console.print(
            f"Largest share of the error budget that was used (above 1 fails), and where. "
            f"Budget: {report.spec['c']:g} x {BUDGETS[kind]}.",
            style="dim",
        )
    _print_failures(report, console)
    if report.power:
        print_power(report, console)
    for line in _environment(report):
        console.print(line, style="dim")
    console.print(styled(*_verdict(report), f" {seconds:.0f} s."))


def matrix(report: Report) -> Table:
    """One row for each runner, and one more for each check beside outputs and gradients; a column for each dtype."""
    present = {cell.dtype for cell in report.cells}
    dtypes = [dtype for dtype in DTYPES if dtype in present]
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("runner", no_wrap=True)
    for dtype in dtypes:
        table.add_column(dtype)
    table.add_column("")
    for state in report.runners:
        checks = {cell.check for cell in report.cells if cell.runner == state.name}
        rows: list[tuple[str, tuple[str, ...]]] = [("", BASE)] if checks & set(BASE) or not checks else []
        rows += [(check, (check,)) for check in CHECKS if check in checks and check not in BASE]
        for number, (label, group) in enumerate(rows):
            cells = [_cell(report.worst(state.name, dtype, group)) for dtype in dtypes]
            name = state.name if number == 0 else ""
            title = f"{name or ' ' * len(state.name)}{f' {label}' if label else ''}"
            table.add_row(title, *cells, "" if state.state == "ran" or number else styled(_state(state)))
    return table


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return styled(("-", "dim"))
    if cell.verdict is Verdict.UNSUPPORTED:
        return styled(("unsupported", "dim"))
    use = cell.judgement.budget_use
    colour = "green" if cell.green else "bold red"
    if cell.budget == "bitwise" and cell.green:
        return styled(("=", colour))
    short = use is not None and (cell.green or cell.verdict is Verdict.EXCEEDS_BUDGET)
    text = (f"{use:.2f}" if use < 100 else f"{use:.0e}") if short and use is not None else cell.verdict.value
    return styled((text, colour), f" {cell.case} {cell.tensor}")


def _state(state: RunnerState) -> tuple[str, str]:
    return state.state, "yellow" if state.state == "unavailable" else "red"


def _print_failures(report: Report, console: Terminal) -> None:
    for state in report.runners:
        if state.detail:
            console.print(styled(_state(state), f" {state.name}: ") + lines(state.detail))
    for cell in report.failures[:MOST]:
        console.print(styled(("FAIL", "red"), f" {describe(cell)}"), soft_wrap=True)
    if len(report.failures) > MOST:
        console.print(f"... and {len(report.failures) - MOST} more; --json FILE lists all.")
    for found in report.localisations:
        console.print(styled((found.line, "bold")), soft_wrap=True)
        if found.shrunk:
            sizes = ", ".join(f"{axis}={size}" for axis, size in found.shrunk.items())
            console.print(f"  still fails with {sizes}")
        if found.replay:
            console.print(f"  run it again: {found.replay}", soft_wrap=True)
    reasons = dict.fromkeys(
        f"{cell.runner} {cell.check}: {cell.reason}" for cell in report.cells if cell.verdict is Verdict.UNSUPPORTED
    )
    for reason in list(reasons)[:MOST]:
        console.print(styled(("unsupported", "dim"), f" {reason}"), soft_wrap=True)


def _environment(report: Report) -> tuple[str, str]:
    versions: dict[str, str] = {}
    for state in report.runners:
        versions |= state.versions
    environment = report.environment
    parts = [f"python {environment['python']}", *(f"{name} {versions[name]}" for name in sorted(versions))]
    return ", ".join(parts), f"{environment['platform']}, {environment['processor']}"


def _verdict(report: Report) -> tuple[tuple[str, str], str]:
    total, green = len(report.compared), sum(1 for cell in report.cells if cell.green)
    ran = f"{len(report.ran)} of {len(report.asked)} runners ran"
    counts = f"{green} of {total} tensors within budget, {ran}"
    if report.exit_code == 0:
        return ("All agree", "bold green"), f": {counts}."
    reasons = {
        "They do not agree": report.disagreements,
        "A required runner is missing": report.missing,
        "A runner raised, crashed or timed out": report.exit_code == 3,
        "A case is inconclusive": report.inconclusive,
        "Nothing was compared": report.exit_code == 4 and not report.compared and not report.inconclusive,
    }
    reason = ". ".join(text for text, holds in reasons.items() if holds)
    return (reason, "bold red"), f": {counts}."


def print_chain(found: Localisation, console: Terminal) -> None:
    table = Table(title=found.line, title_justify="left", box=None, header_style="bold")
    for name in ("stage", "direction", "as it came", "in isolation", "verdict"):
        table.add_column(name)
    for stage in found.chain:
        mark = ("<-- here" if stage["tap"] == found.culprit else "", "bold red")
        numbers = ["-" if stage[k] is None else f"{stage[k]:.3g}" for k in ("propagated", "isolated")]
        table.add_row(stage["tap"], stage["direction"], *numbers, styled(f"{stage['verdict']} ", mark))
    console.print(table)


def print_comparison(result: Mapping[str, Judgement], console: Terminal) -> None:
    table = Table(box=None, header_style="bold")
    for name in (
        "tensor",
        "verdict",
        "budget use",
        "max abs",
        "max rel",
        "max ULP",
        "RMSE",
        "SNR dB",
        "worst",
        "values",
    ):
        table.add_column(name)
    for name, j in result.items():
        metrics = [j.metrics.get(key) for key in ("max_abs", "max_rel", "max_ulp", "rmse", "snr_db")]
        numbers = ["-" if value is None else f"{value:.3g}" for value in (j.budget_use, *metrics)]
        colour = "green" if j.verdict.green else "bold red"
        values = f"{j.received} for {j.expected}" if j.received or j.expected else ""
        table.add_row(name, styled((j.verdict, colour)), *numbers, str(list(j.index)), values)
    console.print(table)


def print_power(report: Report, console: Terminal) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("case", "dtype", "killed", "survived", "not applicable"):
        table.add_column(name)
    for power in report.power:
        survived = styled((", ".join(power.survived), "yellow"))
        killed = styled(f"{len(power.killed)}" if power.killed else ("none", "bold red"))
        table.add_row(power.case, power.dtype, killed, survived, ", ".join(power.not_applicable))
    console.print(table)


def print_fingerprints(states: Sequence[RunnerState], console: Terminal) -> None:
    from eca_multi.parity.explain.fingerprints import PROBES

    ran = [state for state in states if state.fingerprint]
    table = Table(box=None, header_style="bold")
    table.add_column("probe")
    for state in ran:
        table.add_column(state.name)
    table.add_column("what it measures")
    for probe, meaning in PROBES.items():
        values = [_value(state.fingerprint.get(probe)) for state in ran]
        said = styled((meaning, "not bold"))
        table.add_row(probe, *values, said, style="bold" if len(set(values)) > 1 else "dim")
    console.print(table)
    for state in states:
        if state.detail:
            console.print(styled(_state(state), f" {state.name}: ") + lines(state.detail))


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_doctor(findings: Sequence[Any], console: Terminal) -> None:
    colours = {"ok": "green", "missing": "yellow", "fault": "bold red"}
    table = Table(box=None, show_header=False)
    for finding in findings:
        table.add_row(styled((finding.state, colours[finding.state])), finding.what, lines(finding.detail))
    console.print(table)


def print_summary(content: Mapping[str, Any], console: Terminal) -> None:
    """Show a report that was read from a file."""
    counts: dict[str, int] = {}
    for result in content["results"]:
        counts[result["verdict"]] = counts.get(result["verdict"], 0) + 1
    console.print(f"{content['spec'].get('name', '')}: exit status {content['exit_code']}")
    for verdict, count in sorted(counts.items()):
        console.print(f"  {verdict} {count}")
    for found in content["localisations"]:
        console.print(f"  {found['line']}", soft_wrap=True)


def print_list(wanted: str, console: Terminal) -> None:
    from eca_multi.parity.define.runners import runners_of
    from eca_multi.parity.specs import SHIPPED, find_spec

    spec, _ = find_spec(wanted)
    table = Table(box=None, show_header=False)
    for name, what in SHIPPED.items():
        table.add_row("spec", name, what)
    for runner in runners_of(spec):
        table.add_row("runner", runner.name, runner.unavailable() or "")
    for case in spec.cases:
        table.add_row("case", case.name, case.why)
    for check in CHECKS:
        table.add_row("check", check, "")
    for dtype in DTYPES:
        table.add_row("dtype", dtype, "")
    console.print(table)
