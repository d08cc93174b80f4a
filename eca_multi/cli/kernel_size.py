"""`eca-multi kernel-size CHANNELS...`: the rule for the kernel size."""

from typing import Annotated

import typer

from eca_multi import eca_kernel_size


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
