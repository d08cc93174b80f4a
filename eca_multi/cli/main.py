"""The command line. It parses, calls and prints; what is computed lies elsewhere."""

from typing import Annotated

import typer

from eca_multi import __version__, eca_kernel_size

from .convert import convert
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


app.command()(convert)
app.command()(plan)
app.add_typer(parity_app, name="parity")
