"""`eca-multi plan MODULE:FACTORY`: where would ECA go in a network?"""

from pathlib import Path
from typing import Annotated

import typer

from eca_multi._terminal import say
from eca_multi.surgery.plan_named import plan_named


def plan(
    target: Annotated[
        str,
        typer.Argument(
            help="A function without arguments that returns a network, or the network: module:name or file.py:name. "
            "For linen it returns (module, variables, example_inputs).",
            metavar="MODULE:FACTORY",
        ),
    ],
    where: Annotated[
        str,
        typer.Option(help="residual, block, conv_norm, conv, norm, se or slot; or exact paths, with commas between."),
    ] = "residual",
    include: Annotated[str | None, typer.Option(help="Only paths that match this regular expression.")] = None,
    exclude: Annotated[str | None, typer.Option(help="No paths that match this regular expression.")] = None,
    min_channels: Annotated[int, typer.Option(help="Leave sites with fewer channels.")] = 0,
    kernel_size: Annotated[int | None, typer.Option(help="Odd; by default the rule chooses one per site.")] = None,
    gate: Annotated[str, typer.Option(help="2sigmoid, sigmoid or hard_sigmoid.")] = "2sigmoid",
    init: Annotated[str, typer.Option(help="identity or uniform.")] = "identity",
    pool_axes: Annotated[str | None, typer.Option(help="As in 3,4: average over these axes alone.")] = None,
    causal_axis: Annotated[int | None, typer.Option(help="Axis along which no position may see later ones.")] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="As in 1,3,224,224: run the network once on float32 zeros of this shape.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the plan to this file.")] = None,
) -> None:
    """Show where ECA would go in a network, and change nothing."""
    options = {"include": include, "exclude": exclude, "min_channels": min_channels, "kernel_size": kernel_size}
    try:
        axes = {"pool_axes": _axes(pool_axes), "causal_axis": causal_axis}
        result = plan_named(target, where, _shape(input_shape), **options, **axes, gate=gate, init=init)
        if json_file is not None:
            result.save(json_file)
    except (LookupError, TypeError, ValueError, ImportError, OSError) as error:
        say(" ".join(str(error).split()), err=True)
        raise typer.Exit(2) from error
    say(result)


def _axes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--pool-axes must be axes with commas between, as in 3,4. Received: {text!r}.") from None


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 0:
        raise ValueError(f"--input-shape must be numbers with commas between, as in 1,3,224,224. Received: {text!r}.")
    return shape
