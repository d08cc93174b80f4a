"""The arguments and options that several commands of the harness share."""

from pathlib import Path
from typing import Annotated

import typer

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


def split(values: list[str] | None) -> list[str] | None:
    """Return repeated and comma-separated names as one list; None without a name."""
    return [name.strip() for value in values or () for name in value.split(",") if name.strip()] or None
