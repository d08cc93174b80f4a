"""`eca-multi convert SOURCE TARGET --to FRAMEWORK`: a checkpoint for another framework."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from eca_multi._terminal import say
from eca_multi.checkpoints import convert as convert_file
from eca_multi.checkpoints.digest import size_of

_LARGE = 64 << 20  # bytes; a larger source gets a progress bar
_STEPS = {"hash": "Checksum", "read": "Reading", "write": "Writing"}


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A file of torch (.pth, .pt, .pth.tar), .safetensors, Keras 3 (.keras, .weights.h5) or Flax "
            "(.msgpack, or a folder that orbax wrote). It is not changed.",
            metavar="SOURCE",
        ),
    ],
    target: Annotated[
        Path, typer.Argument(help="The file to write; of linen and nnx also a folder.", metavar="TARGET")
    ],
    to: Annotated[str, typer.Option(help="torch, keras, linen, nnx or canonical.")],
    arch: Annotated[str | None, typer.Option(help="Name of the network; by default names and shapes decide.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Place of the weights in a file of torch, as in model or ema.model.")
    ] = None,
) -> None:
    """Take a checkpoint of an ECA network to another framework."""
    try:
        with _bar(source) as progress:
            report = convert_file(source, target, to=to, arch=arch, key=key, progress=progress)
    except (ImportError, TypeError, ValueError, OSError, MemoryError) as error:
        say("; ".join((str(error) or "not enough memory").splitlines()), err=True)
        raise typer.Exit(2) from error
    say(report)


@contextmanager
def _bar(source: Path) -> Iterator[Callable[[str, int, int], None] | None]:
    if not source.exists() or size_of(source) < _LARGE:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {step: progress.add_task(title, total=None, visible=False) for step, title in _STEPS.items()}

        def tell(step: str, done: int, total: int) -> None:
            progress.update(tasks[step], completed=done, total=total, visible=True)

        yield tell
