"""`eca-multi`: the commands together."""

from typing import Annotated

import typer

from eca_multi import __version__

from .convert import convert
from .gates import gates
from .kernel_size import kernel_size
from .parity import app as parity_app
from .plan import plan

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


app.command()(kernel_size)
app.command()(convert)
app.command()(plan)
app.command()(gates)
app.add_typer(parity_app, name="parity")
