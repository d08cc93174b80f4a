"""`eca-multi parity [SPEC] COMMAND`: the commands of the harness."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typer.core import TyperGroup

from eca_multi._printable import printable
from eca_multi._terminal import Terminal, say

from .files import check_file, check_folder, write
from .guard import finish, guard, wrong

# The arguments and options that several commands share.
Spec = Annotated[
    str, typer.Argument(help="A specification by name (`list` shows them), or file.py[:NAME].", metavar="[SPEC]")
]
Bundle = Annotated[Path, typer.Argument(help="A folder that --bundles wrote.")]
Runners = Annotated[
    list[str] | None,
    typer.Option("--runner", "-r", help="Only these, as in torch,linen. A file.py:Adapter is your own."),
]
OtherRunner = Annotated[str | None, typer.Option("--runner", "-r", help="Another one: file.py:Adapter.")]
Dtypes = Annotated[list[str] | None, typer.Option("--dtype", help="Only these dtypes.")]
Cases = Annotated[list[str] | None, typer.Option("--case", help="Only these cases.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write one self-contained page to this file.")]
Junit = Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds that a worker may say nothing.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes at a time. [default: processors]")]
Trust = Annotated[bool, typer.Option("--trust", help="Let the code run that the bundle names and that is not ours.")]
Bundles = Annotated[Path | None, typer.Option(help="Folder for what `replay` needs of each failure.")]

EXITS = (
    "Exit status: 0 all agree; 1 one does not, by a fault of its own (with `run --strict`, by its framework's rounding "
    "too), or a required one is missing; 2 wrong usage; 3 a runner or the reference crashed or timed out, or nothing "
    "could be printed; 4 nothing conclusive was compared; 128 + N ended by signal N."
)


class _SpecFirst(TyperGroup):
    """Take the specification before the command as well as after it; take `run` if there is no command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            if len(args) > 1 and args[1] in self.commands and not args[0].startswith("-"):
                args = [args[1], args[0], *args[2:]]
            else:
                args = ["run", *args]
        return super().parse_args(ctx, args or ["run"])


app = typer.Typer(
    cls=_SpecFirst,
    help="Compare implementations of a layer across frameworks: parity [SPEC] COMMAND. Without a command, run.",
    pretty_exceptions_enable=False,
)


@app.command(epilog=EXITS)
def run(
    spec: Spec = "eca",
    runner: Runners = None,
    dtype: Dtypes = None,
    case: Cases = None,
    check: Annotated[list[str] | None, typer.Option(help="Only these checks, or all.")] = None,
    optimizer: Annotated[
        str, typer.Option(help="For the check trajectory: the harness's own rule (textbook), or native.")
    ] = "textbook",
    require: Annotated[str, typer.Option(help="Runners that must be installed, as in torch,linen.")] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Count the rounding of a framework as a disagreement.")
    ] = False,
    json_file: Json = None,
    html_file: Html = None,
    junit_file: Junit = None,
    bundles: Bundles = None,
    timeout: Timeout = 180,
    workers: Workers = None,
) -> None:
    """Load the same weights into every implementation, feed all of them the same data, and judge what comes out.

    Each installed framework runs in a process of its own, in float32, bfloat16 and float16; outputs, input gradients
    and weight gradients are compared with a float64 reference by an error budget.
    """
    files = {"json": json_file, "html": html_file, "junit": junit_file}
    check_folder(bundles, "--bundles")
    checks = _split(check)
    options = {
        "runners": _split(runner),
        "dtypes": _split(dtype),
        "cases": _split(case),
        "checks": "all" if checks == ["all"] else checks,
        "optimizer": optimizer,
        "require": _split([require]) or (),
        "strict": strict,
        "timeout": timeout,
        "workers": workers,
        "bundles": bundles,
    }
    _run_and_show(lambda parity, progress: parity.run(spec, progress=progress, **options), files)


@app.command(epilog=EXITS)
def replay(
    bundle: Bundle,
    runner: OtherRunner = None,
    trust: Trust = False,
    json_file: Json = None,
    html_file: Html = None,
    timeout: Timeout = 180,
) -> None:
    """Run a failure again from its bundle: with this package's adapters, or with those that you give or trust."""
    files = {"json": json_file, "html": html_file}
    options = {"runner": runner, "trust": trust, "timeout": timeout, "announce": _announce}
    _run_and_show(lambda parity, progress: parity.replay(bundle, progress=progress, **options), files)


@app.command(epilog=EXITS)
def localize(bundle: Bundle, runner: OtherRunner = None, trust: Trust = False, timeout: Timeout = 180) -> None:
    """Show where a failure begins: every tap as it came, and in isolation."""
    options = {"runner": runner, "trust": trust, "timeout": timeout, "announce": _announce}
    report = guard(lambda parity: parity.replay(bundle, **options))
    from eca_multi.parity.report.terminal import print_chain

    def show() -> None:
        for localisation in report.localisations:
            print_chain(localisation, Terminal())
        if not report.localisations:
            say("It does not fail here.")

    finish(report.exit_code, show)


@app.command(epilog=EXITS)
def port(
    reference: Annotated[str, typer.Argument(help="module:factory or file.py:factory, which makes the reference.")],
    port: Annotated[str, typer.Argument(help="The same for the port.")],
    inputs: Annotated[Path, typer.Option(help="An .npz file: arguments in order, or keywords by name.")],
    map_: Annotated[
        str | None, typer.Option("--map", help="The map of the weights: module:NAME, file.py:NAME or a .json file.")
    ] = None,
    layouts: Annotated[str | None, typer.Option(help="As 'N C H W -> N H W C'. [default: found]")] = None,
    dtype: Dtypes = None,
    training: Annotated[
        bool | None, typer.Option("--training/--inference", help="Call both in this mode. [default: each as it is]")
    ] = None,
    json_file: Json = None,
    html_file: Html = None,
    junit_file: Junit = None,
) -> None:
    """Compare a port with its reference, each with its own weights in a process of its own; name what goes wrong."""
    files = {"json": json_file, "html": html_file, "junit": junit_file}
    options = {"map": map_, "layouts": layouts, "dtypes": _split(dtype) or ("float32",), "training": training}
    verb = "eca_multi.parity.port"
    _run_and_show(
        lambda parity, progress: import_module(verb).compare_sources(reference, port, inputs, **options), files
    )


@app.command("map")
def map_(
    reference: Annotated[str, typer.Argument(help="module:factory or file.py:factory, which makes the reference.")],
    port: Annotated[str, typer.Argument(help="The same for the port.")],
    inputs: Annotated[
        Path | None, typer.Option(help="An .npz file: arguments in order, or keywords by name. Then both are run.")
    ] = None,
) -> None:
    """Propose the map of the weights of a port, to paste: from names, shapes, order, and from running both.

    Exit status: 0 nothing is open; 1 something is, and the map says what; 2 wrong usage.
    """
    proposal = guard(lambda parity: import_module("eca_multi.parity.propose").propose_sources(reference, port, inputs))
    finish(1 if proposal.open else 0, lambda: typer.echo(printable(str(proposal), lines=True)))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A .safetensors file: what was computed.")],
    second: Annotated[Path, typer.Argument(help="A .safetensors file: the reference, with name@error beside a name.")],
    rtol: Annotated[float, typer.Option(help="Tolerance by hand, where there is no name@error.")] = 0.0,
    atol: Annotated[float, typer.Option(help="The same, absolute.")] = 0.0,
    names: Annotated[
        list[str] | None, typer.Option("--name", help="FIRST=SECOND: a tensor's name in each file, where they differ.")
    ] = None,
) -> None:
    """Compare two files tensor by tensor: by the budget where one is there, else by a tolerance, else bit by bit.

    Where two tensors differ, their transposes are tried, and where a name is missing, the other file's tensors.

    Exit status: 0 equal within that; 1 not; 2 a file cannot be read; 4 there is nothing to compare, or a budget that
    is infinite or NaN.
    """
    pairs = [text.partition("=") for text in _split(names) or ()]
    if wrong_pair := next((a for a, sign, b in pairs if not (a and sign and b)), None):
        raise wrong(f"--name must be FIRST=SECOND. Received: {wrong_pair!r}.")
    options = {"rtol": rtol, "atol": atol, "names": {a: b for a, _, b in pairs}}
    judgements = guard(lambda parity: parity.compare(first, second, **options))
    from eca_multi.parity.report.report import status_of_comparison
    from eca_multi.parity.report.terminal import print_comparison

    status = status_of_comparison(judgements.values())
    if not judgements:
        say(f"Nothing was compared: {first} and {second} hold no tensors.", err=True)
        raise typer.Exit(status)
    finish(status, lambda: print_comparison(judgements, Terminal()))


@app.command(epilog=EXITS)
def power(spec: Spec = "eca", dtype: Dtypes = None, case: Cases = None, timeout: Timeout = 180) -> None:
    """Run seeded mutants of the PyTorch layer through the same verdict: what would each case catch?"""
    options = {"dtypes": _split(dtype), "cases": _split(case), "checks": ["power"], "timeout": timeout}
    report = guard(lambda parity: parity.run(spec, runners=[], **options))
    from eca_multi.parity.report.report import status_of_power
    from eca_multi.parity.report.terminal import print_power

    finish(status_of_power(report), lambda: print_power(report, Terminal()))


@app.command()
def fingerprint(spec: Spec = "eca", runner: Runners = None, json_file: Json = None, timeout: Timeout = 180) -> None:
    """Measure how each framework computes here: accumulators, subnormals, sigmoid's end, threads, versions."""
    check_file(json_file, "--json")
    states = guard(lambda parity: parity.fingerprints(spec, runners=_split(runner), timeout=timeout))
    from eca_multi.parity.report.report import status_of_runners
    from eca_multi.parity.report.terminal import print_fingerprints

    status = status_of_runners(states)
    if json_file is not None:
        content = {state.name: {"versions": state.versions, "fingerprint": state.fingerprint} for state in states}
        status = write(json_file, lambda: json.dumps(content, indent=1) + "\n", status, "--json")
    finish(status, lambda: print_fingerprints(states, Terminal()))


@app.command()
def doctor(spec: Spec = "eca", timeout: Timeout = 60) -> None:
    """Check this machine: interpreter, frameworks, compiler, disk; start each worker once."""
    findings = guard(lambda parity: import_module("eca_multi.parity.doctor").examine(spec, timeout=timeout))
    from eca_multi.parity.report.terminal import print_doctor

    status = 3 if any(finding.state == "fault" for finding in findings) else 0
    finish(status, lambda: print_doctor(findings, Terminal()))


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="What run --json wrote.")],
    html_file: Html = None,
    junit_file: Junit = None,
) -> None:
    """Turn a JSON report into a page or JUnit XML, or show it."""
    files = {"html": html_file, "junit": junit_file}
    _check(files)

    def read(_: ModuleType) -> dict[str, Any]:
        from eca_multi.parity.report.json import read_report

        try:
            return read_report(file)
        except (OSError, ValueError) as error:
            raise wrong(str(error)) from error

    content = guard(read)
    if any(files.values()):
        raise typer.Exit(_write(files, content, 0))
    from eca_multi.parity.report.terminal import print_summary

    finish(0, lambda: print_summary(content, Terminal()))


@app.command()
def init(
    frameworks: Annotated[list[str], typer.Argument(help="torch, keras, linen, nnx, jax, numpy.")],
    file: Annotated[Path, typer.Option(help="The file to write.")] = Path("parity_my_layer.py"),
) -> None:
    """Write a file of adapters that works, to start from."""
    text = guard(lambda parity: import_module("eca_multi.parity.define.scaffold").scaffold(frameworks))
    if file.exists():
        raise wrong(f"{file} is there already; --file names another.")
    if status := write(file, lambda: text, 0):
        raise typer.Exit(status)
    say(f"Wrote {file}. Run it: eca-multi parity {file}")


@app.command("list")
def list_(spec: Spec = "eca") -> None:
    """List the specifications that come with the package, and the runners, cases and checks of one."""
    guard(lambda parity: import_module("eca_multi.parity.report.terminal").print_list(spec, Terminal()))


def _split(values: list[str] | None) -> list[str] | None:
    """Return repeated and comma-separated names as one list; None without a name."""
    return [name.strip() for value in values or () for name in value.split(",") if name.strip()] or None


def _announce(what: str) -> None:
    say(f"It runs\n{what}", err=True)


def _run_and_show(work: Callable[[ModuleType, Any], Any], files: dict[str, Path | None]) -> None:
    _check(files)
    start = time.monotonic()
    with _bar() as progress:
        result = guard(lambda parity: work(parity, progress))
    seconds = time.monotonic() - start
    from eca_multi.parity.report.terminal import render

    status = _write(files, result.to_dict(), result.exit_code)
    finish(status, lambda: render(result, Terminal(), seconds))


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    name = TextColumn("{task.description:<18}", markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Terminal(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(task, description=printable(what), completed=done, total=total)


def _check(files: dict[str, Path | None]) -> None:
    for name, file in files.items():
        check_file(file, f"--{name}")
    if files.get("html"):
        guard(lambda parity: import_module("eca_multi.parity.report.html").check_installed())


def _write(files: dict[str, Path | None], content: dict[str, Any], status: int) -> int:
    """Write a report in each format that was asked for, whatever becomes of the others; return the exit status."""
    from eca_multi.parity.report import FORMATS

    for name, file in files.items():
        if file is not None:
            status = write(file, partial(FORMATS[name], content), status, f"--{name}")
    return status
