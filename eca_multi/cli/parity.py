"""The command line of the harness: `eca-multi parity [SPEC] COMMAND`. It parses, calls and prints."""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typer.core import TyperGroup

from eca_multi._printable import printable
from eca_multi._signals import Ended
from eca_multi._terminal import Terminal, say

EXITS = (
    "Exit status: 0 all agree; 1 one does not, or a required one is missing; 2 wrong usage; 3 a runner or the "
    "reference crashed or timed out, or nothing could be printed; 4 nothing conclusive was compared; 128 + N ended by "
    "signal N."
)


class _SpecFirst(TyperGroup):
    """Takes the specification before the command as well as after it; `run` where there is no command."""

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

Spec = Annotated[
    str, typer.Argument(help="A specification by name (`list` shows them), or file.py[:NAME].", metavar="[SPEC]")
]
Runners = Annotated[
    list[str] | None,
    typer.Option("--runner", "-r", help="Only these, as in torch,linen. A file.py:Adapter is your own."),
]
Dtypes = Annotated[list[str] | None, typer.Option("--dtype", help="Only these dtypes.")]
Cases = Annotated[list[str] | None, typer.Option("--case", help="Only these cases.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write one self-contained page to this file.")]
Junit = Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds that a worker may say nothing.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes at a time. [default: processors]")]
Trust = Annotated[bool, typer.Option("--trust", help="Let the code run that the bundle names and that is not ours.")]
Bundles = Annotated[Path | None, typer.Option(help="Folder for what `replay` needs of each failure.")]


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
    files = _check_files(json_file, html_file, junit_file, bundles)
    checks = _split(check)
    _run_and_show(
        lambda progress: _parity().run(
            spec,
            runners=_split(runner),
            dtypes=_split(dtype),
            cases=_split(case),
            checks="all" if checks == ["all"] else checks,
            optimizer=optimizer,
            require=_split([require]) or (),
            timeout=timeout,
            workers=workers,
            bundles=bundles,
            progress=progress,
        ),
        files,
    )


@app.command(epilog=EXITS)
def replay(
    bundle: Annotated[Path, typer.Argument(help="A folder that --bundles wrote.")],
    runner: Annotated[str | None, typer.Option("--runner", "-r", help="Another one: file.py:Adapter.")] = None,
    trust: Trust = False,
    json_file: Json = None,
    html_file: Html = None,
    timeout: Timeout = 180,
) -> None:
    """Run a failure again from its bundle: with this package's adapters, or with those that you give or trust."""
    files = _check_files(json_file, html_file)
    options = {"runner": runner, "trust": trust, "timeout": timeout, "announce": _announce}
    _run_and_show(lambda progress: _parity().replay(bundle, progress=progress, **options), files)


@app.command(epilog=EXITS)
def localize(
    bundle: Annotated[Path, typer.Argument(help="A folder that --bundles wrote.")],
    runner: Annotated[str | None, typer.Option("--runner", "-r", help="Another one: file.py:Adapter.")] = None,
    trust: Trust = False,
    timeout: Timeout = 180,
) -> None:
    """Show where a failure begins: every tap as it came, and in isolation."""
    from eca_multi.parity.report.terminal import print_chain

    options = {"runner": runner, "trust": trust, "timeout": timeout, "announce": _announce}
    report = _guard(lambda: _parity().replay(bundle, **options))

    def show() -> None:
        for found in report.localisations:
            print_chain(found, Terminal())
        if not report.localisations:
            say("It does not fail here.")

    _finish(report.exit_code, show)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A .safetensors file: what was computed.")],
    second: Annotated[Path, typer.Argument(help="A .safetensors file: the reference, with name@error beside a name.")],
    rtol: Annotated[float, typer.Option(help="Tolerance by hand, where there is no name@error.")] = 0.0,
    atol: Annotated[float, typer.Option(help="The same, absolute.")] = 0.0,
) -> None:
    """Compare two files tensor by tensor: by the budget where one is there, else by a tolerance, else bit by bit.

    Exit status: 0 equal within that; 1 not; 2 a file cannot be read; 4 there is nothing to compare, or a budget that
    is infinite or NaN.
    """
    from eca_multi.parity.report.terminal import print_comparison

    result = _guard(lambda: _parity().compare(first, second, rtol=rtol, atol=atol))
    if not result:
        say(f"Nothing was compared: {first} and {second} hold no tensors.", err=True)
        raise typer.Exit(4)
    verdicts = [judgement.verdict for judgement in result.values()]
    status = 1 if any(verdict.disagrees for verdict in verdicts) else 0 if all(v.green for v in verdicts) else 4
    _finish(status, lambda: print_comparison(result, Terminal()))


@app.command(epilog=EXITS)
def power(
    spec: Spec = "eca",
    dtype: Dtypes = None,
    case: Cases = None,
    timeout: Timeout = 180,
) -> None:
    """Run seeded mutants of the PyTorch layer through the same verdict: what would each case catch?"""
    from eca_multi.parity.report.terminal import print_power

    report = _guard(
        lambda: _parity().run(
            spec, runners=[], dtypes=_split(dtype), cases=_split(case), checks=["power"], timeout=timeout
        )
    )
    status = report.exit_code if report.exit_code == 3 else 0  # the reference has died, or what has the mutants
    if not status and (not report.power or any(not p.killed for p in report.power)):
        status = 4
    _finish(status, lambda: print_power(report, Terminal()))


@app.command()
def fingerprint(spec: Spec = "eca", runner: Runners = None, json_file: Json = None, timeout: Timeout = 180) -> None:
    """Measure how each framework computes here: accumulators, subnormals, sigmoid's end, threads, versions."""
    from eca_multi.parity.report.terminal import print_fingerprints

    files = _check_files(json_file)
    states = _guard(lambda: _parity().fingerprints(spec, runners=_split(runner), timeout=timeout))
    content = {state.name: {"versions": state.versions, "fingerprint": state.fingerprint} for state in states}
    status = 3 if any(state.state in ("crashed", "timed out") for state in states) else 0
    status = _write_all(files, {"--json": lambda: json.dumps(content, indent=1) + "\n"}, status)
    _finish(status, lambda: print_fingerprints(states, Terminal()))


@app.command()
def doctor(spec: Spec = "eca", timeout: Timeout = 60) -> None:
    """Check this machine: interpreter, frameworks, compiler, disk; start each worker once."""
    from eca_multi.parity.doctor import examine
    from eca_multi.parity.report.terminal import print_doctor

    findings = _guard(lambda: examine(spec, timeout=timeout))
    status = 3 if any(finding.state == "fault" for finding in findings) else 0
    _finish(status, lambda: print_doctor(findings, Terminal()))


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="What run --json wrote.")],
    html_file: Html = None,
    junit_file: Junit = None,
) -> None:
    """Turn a JSON report into a page or JUnit XML, or show it."""
    from eca_multi.parity.report.json import read_report
    from eca_multi.parity.report.terminal import print_summary

    files = _check_files(None, html_file, junit_file)
    try:
        content = read_report(file)
    except (OSError, ValueError) as error:
        raise _wrong(str(error)) from error
    if any(files.values()):
        raise typer.Exit(_write_all(files, _makers(content), 0))
    _finish(0, lambda: print_summary(content, Terminal()))


@app.command()
def init(
    frameworks: Annotated[list[str], typer.Argument(help="torch, keras, linen, nnx, jax, numpy.")],
    file: Annotated[Path, typer.Option(help="The file to write.")] = Path("parity_my_layer.py"),
) -> None:
    """Write a file of adapters that works, to start from."""
    from eca_multi.parity.define.scaffold import scaffold

    text = _guard(lambda: scaffold(frameworks))
    if file.exists():
        raise _wrong(f"{file} is there already; --file names another.")
    if status := _write_all({"": file}, {"": lambda: text}, 0):
        raise typer.Exit(status)
    say(f"Wrote {file}. Run it: eca-multi parity {file}")


@app.command("list")
def list_(spec: Spec = "eca") -> None:
    """List the specifications that come with the package, and the runners, cases and checks of one."""
    from eca_multi.parity.report.terminal import print_list

    _guard(lambda: print_list(spec, Terminal()))


def _parity() -> Any:
    from eca_multi import parity

    return parity


def _wrong(text: str, option: str | None = None) -> typer.BadParameter:
    return typer.BadParameter(printable(text, lines=True), param_hint=option)


def _announce(what: str) -> None:
    say(f"It runs\n{what}", err=True)


def _guard(work: Callable[[], Any]) -> Any:
    """Do work; what the user got wrong is one line and exit 2, what we got wrong a traceback and exit 3."""
    try:
        try:
            return work()
        except ImportError as error:
            if "eca-multi[" not in str(error):
                raise
            say(str(error), err=True)
            raise typer.Exit(2) from error
        except ValueError as error:
            if type(error).__name__ == "Untrusted":  # as it is: in a frame, what would run is cut into pieces
                say(error, err=True)
                raise typer.Exit(2) from error
            if type(error).__name__ not in ("SpecError", "UsageError"):
                raise
            raise _wrong(str(error)) from error
    except (typer.Exit, typer.BadParameter):
        raise
    except (KeyboardInterrupt, Ended) as error:
        say("Interrupted; the workers have been ended.", err=True)
        if isinstance(error, Ended):
            raise
        raise typer.Exit(130) from None
    except OSError as error:
        say(f"The run could not go on: {error}", err=True)
        raise typer.Exit(3) from error
    except SystemExit as error:  # of code in the specification, whose status would be taken for a verdict
        say(f"The run could not go on: code of the specification ended it, by SystemExit: {error}", err=True)
        raise typer.Exit(3) from error
    except Exception as error:  # ours: it must not look like a disagreement, which is status 1
        say(traceback.format_exc(), err=True)
        raise typer.Exit(3) from error


def _run_and_show(work: Callable[[Any], Any], files: dict[str, Path | None]) -> None:
    start = time.monotonic()
    with _bar() as progress:
        report = _guard(lambda: work(progress))
    seconds = time.monotonic() - start
    from eca_multi.parity.report.terminal import render

    status = _write_all(files, _makers(report.to_dict()), report.exit_code)
    _finish(status, lambda: render(report, Terminal(), seconds))


def _finish(status: int, show: Callable[[], None]) -> NoReturn:
    """Print, last of all: what is written is written. A fault of the printing must not look like a verdict."""
    try:
        show()
    except Exception:
        say(traceback.format_exc(), err=True)
        status = status or 3
    raise typer.Exit(status)


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    name = TextColumn("{task.description:<18}", markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Terminal(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(task, description=printable(what), completed=done, total=total)


def _check_files(
    json_file: Path | None = None, html: Path | None = None, junit: Path | None = None, folder: Path | None = None
) -> dict[str, Path | None]:
    """Find out before the work that a file cannot be written after it."""
    files = {"--json": json_file, "--html": html, "--junit": junit}
    for option, file in files.items():
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise _wrong(f"{file} is not a file in an existing folder.", option)
    if folder is not None and (folder.is_file() or not folder.parent.is_dir()):
        raise _wrong(f"{folder} is not a folder in an existing one.", "--bundles")
    return files


def _makers(content: dict[str, Any]) -> dict[str, Callable[[], str]]:
    from eca_multi.parity.report.html import to_html
    from eca_multi.parity.report.json import as_json
    from eca_multi.parity.report.junit import to_junit

    makers = {"--json": as_json, "--html": to_html, "--junit": to_junit}
    return {option: partial(maker, content) for option, maker in makers.items()}


def _write_all(files: Mapping[str, Path | None], makers: Mapping[str, Callable[[], str]], status: int) -> int:
    """Write what was asked for, each whole or not at all, and each whatever becomes of the others.

    Returns the exit status: the one given where all was written or it is one of a failure, and else 2, or 3 where the
    fault is ours.
    """
    from eca_multi._files.file import write_atomically

    for option, file in files.items():
        if file is None:
            continue
        try:
            write_atomically(file, makers[option]().encode(errors="backslashreplace"))
        except OSError as error:
            say(f"{option} {file} could not be written: {error}".strip(), err=True)
            status = status or 2
        except Exception:  # in what makes the text
            say(f"{option} {file} could not be written:".strip(), err=True)
            say(traceback.format_exc(), err=True)
            status = status or 3
    return status


def _split(values: list[str] | None) -> list[str] | None:
    """Take repeated and comma-separated names to one list; None where there are none."""
    return [name.strip() for value in values or () for name in value.split(",") if name.strip()] or None
