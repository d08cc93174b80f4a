"""`eca-multi gates FILE|MODULE:FACTORY`: what do the ECAs of a network do?"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from eca_multi._page import check_installed
from eca_multi._terminal import say
from eca_multi.gates import GateRecord, load_gates, plot_gates, to_html, to_json
from eca_multi.gates.errors import not_recorded
from eca_multi.gates.record_named import BATCH, record_named
from eca_multi.gates.shown import shown_classes

from .files import check_file, check_folder, write


def gates(
    target: Annotated[
        str,
        typer.Argument(
            help="A file that record.save wrote (.npz); or module:name or file.py:name of a function without arguments "
            "that returns a network, (network, inputs) or (network, inputs, labels). For linen it returns (module, "
            "variables, inputs), and labels behind.",
            metavar="FILE|MODULE:FACTORY",
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="An .npz file with the inputs x, and perhaps labels y, for MODULE:FACTORY.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="How many samples the network gets at once.")] = BATCH,
    label: Annotated[
        list[str] | None, typer.Option("--class", help="Show only these classes, six at most, as in cat,dog.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Draw pictures into this folder, as .png and .svg.")] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write one self-contained page to this file.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the statistics to this file.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the record to this file, for FILE.")] = None,
) -> None:
    """Show the gates of each ECA of a network: their means, spread and extremes, as text, pictures or a page."""
    for file, option in ((html_file, "--html"), (json_file, "--json"), (save, "--save")):
        check_file(file, option)
    check_folder(out, "--out")
    try:
        if html_file is not None or out is not None:
            check_installed("The page of gates" if html_file else "plot_gates", "plots")
        record = _record(target, data, batch)
        classes = _classes(record, label)
        if save is not None:
            record.save(save)
        if out is not None:
            plot_gates(record, out, classes=classes)
    except (LookupError, TypeError, ValueError, ImportError, OSError) as error:
        say(" ".join(str(error).split()), err=True)
        raise typer.Exit(2) from error
    status = 0
    if html_file is not None:
        status = write(html_file, partial(to_html, record, classes=classes), status, "--html")
    if json_file is not None:
        status = write(json_file, partial(to_json, record), status, "--json")
    say(record)
    raise typer.Exit(status)


def _record(target: str, data: Path | None, batch: int) -> GateRecord:
    file = Path(target)
    if file.is_file() or ":" not in target:
        if data is not None:
            remedy = "Pass MODULE:FACTORY to record anew."
            raise not_recorded("--data", "left out beside a file of gates", f"--data {data}", remedy)
        return load_gates(file)
    return record_named(target, data, batch=batch)


def _classes(record: GateRecord, labels: list[str] | None) -> list[int | str] | None:
    """Return the labels of the record that are written like these."""
    if not labels:
        return None
    known = {str(label): label for label in record.labels}
    named = [part.strip() for text in labels for part in text.split(",") if part.strip()]
    return shown_classes(list(record.values()), [known.get(name, name) for name in named])
