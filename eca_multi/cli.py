"""The command line. It parses, calls and prints; what is computed lies elsewhere."""

import signal
import time
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eca_multi import __version__, eca_kernel_size

app = typer.Typer(
    name="eca-multi",
    help="Efficient Channel Attention for PyTorch, Keras 3 and Flax.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eca-multi {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def kernel_size(
    channels: Annotated[list[int], typer.Argument(help="Numbers of channels.", metavar="CHANNELS")],
    gamma: Annotated[float, typer.Option(help="Divisor of the rule.")] = 2,
    beta: Annotated[float, typer.Option(help="Offset of the rule, the paper's b.")] = 1,
    min_size: Annotated[int, typer.Option(help="Smallest size: 1 is the paper's, 3 timm's.")] = 1,
) -> None:
    """Print the adaptive kernel size for each number of channels."""
    try:
        sizes = [eca_kernel_size(number, gamma=gamma, beta=beta, min_size=min_size) for number in channels]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for number, size in zip(channels, sizes, strict=True):
        typer.echo(f"{number}\t{size}")


@app.command()
def parity(
    runner: Annotated[
        list[str] | None,
        typer.Option(help="Run only these, as in torch,linen. A file.py:Adapter is your own."),
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Only these dtypes.")] = None,
    case: Annotated[list[str] | None, typer.Option(help="Only these cases.")] = None,
    require: Annotated[str, typer.Option(help="Runners that must be installed, as in torch,linen.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a worker may say nothing.")] = 180,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes at a time. [default: processors]")] = None,
) -> None:
    """Load the same weights into every implementation, feed all of them the same data, and judge what comes out.

    Each installed framework runs in a process of its own, on real photographs and designed cases, in float32, bfloat16
    and float16; outputs, input gradients and weight gradients are compared with a float64 oracle by an error budget.

    Exit status: 0 all agree; 1 one does not, or a required one is missing; 2 wrong usage; 3 a runner crashed or timed
    out; 4 nothing was compared.
    """
    try:
        from eca_multi.parity import UsageError, run
        from eca_multi.parity.render import render
    except ImportError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error

    if json_file is not None and (json_file.is_dir() or not json_file.parent.is_dir()):
        raise typer.BadParameter(f"{json_file} is not a file in an existing folder.", param_hint="--json")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is ended ends its workers, as Ctrl-C does
    bar = Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    start = time.monotonic()
    try:
        with bar:
            task = bar.add_task("starting", total=None)
            report = run(
                runners=_split(runner),
                dtypes=_split(dtype),
                cases=_split(case),
                require=_split([require]) or (),
                timeout=timeout,
                workers=workers,
                progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
            )
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error
    except KeyboardInterrupt:
        typer.echo("Interrupted; the workers have been ended.", err=True)
        raise typer.Exit(130) from None
    except Exception as error:  # ours: it must not look like a disagreement, which is status 1
        traceback.print_exc()
        raise typer.Exit(3) from error
    render(report, Console(emoji=False), time.monotonic() - start)
    if json_file is not None:
        try:
            report.write(json_file)
        except OSError as error:
            typer.echo(f"--json {json_file} could not be written: {error}", err=True)
            raise typer.Exit(report.exit_code or 2) from error
    raise typer.Exit(report.exit_code)


def _split(values: list[str] | None) -> list[str] | None:
    """Take repeated and comma-separated names to one list; None where there are none."""
    return [name.strip() for value in values or () for name in value.split(",") if name.strip()] or None
