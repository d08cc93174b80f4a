"""What the command line prints: the matrix, then only what failed, then the environment."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.table import Table
from rich.text import Text

from eca_multi._terminal import Terminal, lines, styled
from eca_multi.parity.define.checks import BASE, TABLE
from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.explain.localize import Localisation
from eca_multi.parity.judge.compare import Judgement

from .json import finite
from .report import Report
from .view import View
from .view.localised import read_localised
from .view.reading import text
from .view.results import Group
from .view.wording import count, reach_words, use

MOST = 20  # failing tensors that are listed; --json has all
BUDGETS = {
    "analytic": "the analytic rounding error against the float64 reference",
    "stochastic": "the error of 16 float64 re-runs with rounding noise",
    "manual": "the tolerance given by hand",
}


def render(report: Report, console: Terminal, seconds: float) -> None:
    view = View(report.to_dict())
    console.print(matrix(view))
    kind = text(view.spec, "budget")
    if kind in BUDGETS:
        console.print(
            f"Largest share of the error budget that was used (above 1 fails), and where. "
            f"Budget: {view.spec['c']:g} x {BUDGETS[kind]}.",
            style="dim",
        )
    _print_reach(view, console)
    _print_failures(view, console)
    if view.power:
        print_power(report, console)
    for line in view.blind:
        console.print(styled((line, "yellow")), soft_wrap=True)
    for line in _environment(view):
        console.print(line, style="dim")
    colour = "bold green" if view.agrees else "bold red"
    console.print(styled((view.outcome, colour), f": {', '.join(view.counts)}. {seconds:.0f} s."))


def summary(report: Report, *, width: int, colour: bool) -> str:
    """Return the matrix and the counts as text, for the end of a pytest run."""
    view = View(report.to_dict())
    console = Terminal(width=width, force_terminal=colour)
    with console.capture() as captured:
        console.print(matrix(view))
    return f"{captured.get()}{', '.join(view.counts)}"


def matrix(view: View) -> Table:
    """One row for each runner, and one more for each check beside outputs and gradients; a column for each dtype."""
    dtypes = view.dtypes()
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("runner", no_wrap=True)
    for name in (*dtypes, ""):
        table.add_column(name, overflow="fold")
    for runner in view.runner_names:
        checks = view.checks_of(runner)
        rows: list[tuple[str, tuple[str, ...]]] = [("", BASE)] if set(checks) & set(BASE) or not checks else []
        rows += [(check, (check,)) for check in checks if check not in BASE]
        state = view.state_of(runner)
        for number, (label, group) in enumerate(rows):
            cells = [_cell(view.group(runner, dtype, group)) for dtype in dtypes]
            title = f"{runner if number == 0 else ' ' * len(runner)}{f' {label}' if label else ''}"
            table.add_row(title, *cells, "" if state == "ran" or number else styled(_state(state)))
    return table


def _cell(group: Group | None) -> Text:
    if group is None:
        return styled(("-", "dim"))
    worst = group.worst
    if worst.verdict == "UNSUPPORTED":
        return styled(("unsupported", "dim"))
    if worst.is_rounding:
        share = "inf" if worst.budget_use is None else use(worst.budget_use)
        return styled((f"{share} rounding", "yellow"), f" {worst.case} {worst.tensor}")
    colour = "green" if worst.is_green else "bold red"
    if group.is_bitwise:
        return styled(("=", colour))
    has_share = worst.is_green or worst.verdict == "EXCEEDS_BUDGET"
    return styled((use(worst.budget_use) if has_share else worst.verdict, colour), f" {worst.case} {worst.tensor}")


def _state(state: str) -> tuple[str, str]:
    return state, "yellow" if state == "unavailable" else "red"


def _print_states(states: Sequence[Any], console: Terminal) -> None:
    for state in states:
        if state.detail:
            console.print(styled(_state(state.state), f" {state.name}: ") + lines(state.detail))


def _print_failures(view: View, console: Terminal) -> None:
    _print_states(view.runners, console)
    found = [styled(("FAIL", "red"), f" {cause.line}") for cause in view.causes]
    found += [styled(("ROUNDING", "yellow"), f" {line}") for line in _rounding_lines(view)]
    found += [styled(("inconclusive", "red"), f" {line}") for line in _inconclusive_lines(view)]
    found += [styled(("inconclusive", "dim"), f" {view.open_taps}")] if view.open_taps else []
    for line in found[:MOST]:
        console.print(line, soft_wrap=True)
    if len(found) > MOST:
        console.print(f"... and {len(found) - MOST} more; --json FILE lists all.")
    for localised in view.localisations:
        console.print(styled((localised.line, "bold")), soft_wrap=True)
        if localised.sizes:
            console.print(f"  still fails with {localised.sizes}")
        if localised.replay:
            console.print(f"  run it again: {localised.replay}", soft_wrap=True)
    for reason in _unsupported(view)[:MOST]:
        console.print(styled(("unsupported", "dim"), f" {reason}"), soft_wrap=True)


def _rounding_lines(view: View) -> list[str]:
    """Return a line for each reason, with the runners and the worst tensor."""
    lines = []
    for blame, results in view.rounding_reasons.items():
        runners = ", ".join(dict.fromkeys(result.runner for result in results))
        worst = replace(results[0], blame="")
        whose, number = blame.removeprefix("rounding "), count(len(results), "tensor")
        lines.append(f"{whose}: {number} of {runners}; worst: {worst.name}: {worst.describe()}")
    return lines


def _inconclusive_lines(view: View) -> list[str]:
    """Return a line for each reason: the budget is the same for all runners, and so is what it cannot show."""
    groups: dict[tuple[str, ...], list[Any]] = {}
    for result in view.inconclusive:
        groups.setdefault((result.dtype, result.case, result.check, result.tensor, result.reason), []).append(result)
    return [
        f"{', '.join(result.runner for result in results)} {results[0].name.partition(' ')[2]}: {results[0].describe()}"
        for results in groups.values()
    ]


def _print_reach(view: View, console: Terminal) -> None:
    """Say for each dtype how near to its reference a budget comes; the JSON says so for each tensor."""
    least: dict[str, Any] = {}
    for (_, dtype), result in view.reach.items():
        if dtype not in least or result.reach < least[dtype].reach:
            least[dtype] = result
    parts = [f"{r.dtype} {reach_words(r.reach)} ({r.case} {r.tensor})" for r in least.values() if r.reach is not None]
    if parts:
        console.print(f"Nearest to its reference, at the median element: {'; '.join(parts)}.", style="dim")


def _unsupported(view: View) -> list[str]:
    """Return one line for each reason, with the checks and the runners that it concerns."""
    checks: dict[tuple[str, str], dict[str, None]] = {}  # by reason and runner
    for result in view.results:
        if result.verdict == "UNSUPPORTED":
            checks.setdefault((result.reason, result.runner), {})[result.check] = None
    runners: dict[tuple[str, str], list[str]] = {}
    for (reason, runner), names in checks.items():
        runners.setdefault((", ".join(names), reason), []).append(runner)
    return [f"{names} of {', '.join(who)}: {reason}" for (names, reason), who in runners.items()]


def _environment(view: View) -> tuple[str, str]:
    versions: dict[str, Any] = {}
    for runner in view.runners:
        versions |= runner.versions
    python, platform, processor = (text(view.environment, key) for key in ("python", "platform", "processor"))
    parts = [f"python {python}", *(f"{name} {versions[name]}" for name in sorted(versions))]
    return ", ".join(parts), f"{platform}, {processor}"


def print_chain(localisation: Localisation, console: Terminal) -> None:
    localised = read_localised(finite(asdict(localisation)))
    names = ("stage", "direction", "as it came", "in isolation", "verdict")
    table = _table(*names, title=localised.line, title_justify="left")
    for tap in localised.taps:
        mark = ("<-- here" if tap.name == localised.culprit else "", "bold red")
        shares = ["-" if share is None else f"{share:.3g}" for share in (tap.propagated, tap.isolated)]
        table.add_row(tap.name, tap.direction, *shares, styled(f"{tap.verdict} ", mark))
    console.print(table)


def print_comparison(result: Mapping[str, Judgement], console: Terminal) -> None:
    """Print a row for each tensor, or where the terminal is too narrow for that, a paragraph for each."""
    heads = ("budget use", "reach", "max abs", "max rel", "max ULP", "RMSE", "SNR dB", "worst", "values")
    table, paragraphs = _table("tensor", "verdict", *heads), []
    for name, j in result.items():
        metrics = [j.metrics.get(key) for key in ("max_abs", "max_rel", "max_ulp", "rmse", "snr_db")]
        cells = ["-" if value is None else f"{value:.3g}" for value in (j.budget_use, j.reach, *metrics)]
        cells += [str(list(j.index)), f"{j.received} for {j.expected}" if j.received or j.expected else ""]
        verdict = styled((j.verdict, "green" if j.verdict.green else "bold red"))
        table.add_row(name, verdict, *cells)
        said = ", ".join(f"{head} {cell}" for head, cell in zip(heads, cells, strict=True) if cell)
        paragraphs.append(styled(f"{name} ") + verdict + styled(f": {said}"))
    unbounded = console.options.update(max_width=10**6)
    fits = console.measure(table, options=unbounded).maximum <= console.width
    for part in (table,) if fits else paragraphs:
        console.print(part, overflow="fold")
    for name, j in result.items():
        if j.hint:
            console.print(styled((f"{name}: {j.hint}", "yellow")), overflow="fold")


def print_power(report: Report, console: Terminal) -> None:
    table = _table("case", "dtype", "killed", "survived", "not applicable")
    for power in report.power:
        survived = styled((", ".join(power.survived), "yellow"))
        killed = styled(f"{len(power.killed)}" if power.killed else ("none", "bold red"))
        table.add_row(power.case, power.dtype, killed, survived, ", ".join(power.not_applicable))
    console.print(table)


def print_fingerprints(states: Sequence[RunnerState], console: Terminal) -> None:
    from eca_multi.parity.explain.fingerprints import PROBES

    ran = [state for state in states if state.fingerprint]
    table = _table("probe", *(state.name for state in ran), "what it measures")
    for probe, meaning in PROBES.items():
        values = [state.fingerprint.get(probe) for state in ran]
        values = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        said = styled((meaning, "not bold"))
        table.add_row(probe, *values, said, style="bold" if len(set(values)) > 1 else "dim")
    console.print(table)
    _print_states(states, console)


def print_doctor(findings: Sequence[Any], console: Terminal) -> None:
    colours = {"ok": "green", "missing": "yellow", "fault": "bold red"}
    table = _table("", "", "", show_header=False)
    for finding in findings:
        table.add_row(styled((finding.state, colours[finding.state])), finding.what, lines(finding.detail))
    console.print(table)


def print_summary(content: Mapping[str, Any], console: Terminal) -> None:
    view = View(content)
    console.print(f"{view.name}: exit status {view.exit_code}")
    verdicts = [result.verdict for result in view.results]
    for verdict in sorted(set(verdicts)):
        console.print(f"  {verdict} {verdicts.count(verdict)}")
    console.print(f"  {view.outcome}: {', '.join(view.counts)}")
    for localised in view.localisations:
        console.print(f"  {localised.line}", soft_wrap=True)


def print_list(wanted: str, console: Terminal) -> None:
    from eca_multi.parity.define.runners import runners_of
    from eca_multi.parity.specs import SHIPPED, find_spec

    spec, _ = find_spec(wanted)
    table = _table("", "", "", show_header=False)
    for name, what in SHIPPED.items():
        table.add_row("spec", name, what)
    for runner in runners_of(spec):
        table.add_row("runner", runner.name, runner.unavailable() or "")
    for case in spec.cases:
        table.add_row("case", case.name, case.why)
    for check in TABLE:
        table.add_row("check", check.name, check.compares)
    for dtype in DTYPES:
        table.add_row("dtype", dtype, "")
    console.print(table)


def _table(*columns: str, **options: Any) -> Table:
    """Return a table without lines; a word that is too long for its column goes on in the next line."""
    table = Table(box=None, header_style="bold", **options)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
