"""Draw recorded gates into figures and files."""

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from eca_multi._files.file import write_atomically
from eca_multi._page import check_installed

from .errors import no_format
from .layer import LayerGates
from .shown import shown_classes, shown_layers, title_of_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
DEPTH = "Points: means; bars: ± standard deviation; band: lowest to highest"
APART = "Largest less smallest class mean, averaged over the channels"


def plot_gates(
    record: Mapping[str, LayerGates],
    folder: str | os.PathLike[str] | None = None,
    *,
    layers: Sequence[str] | None = None,
    classes: Sequence[int | str] | None = None,
    formats: Sequence[str] = FORMATS,
) -> "dict[str, Figure]":
    """Draw what `record_gates` recorded.

    Args:
        record: Of `record_gates` or `load_gates`.
        folder: Where to write NAME.png and NAME.svg of each figure; None writes nothing. It is made if it is not there.
        layers: Paths of the ECAs to show, in this order; None shows all.
        classes: Labels of the classes to show, six at most; None shows the first six.
        formats: "png", "svg", or both.

    Returns:
        "channels": for each ECA the mean gate of each channel, a line for each class, over the band of mean ± standard
        deviation of all samples (the figure of the paper). "histogram": how often each gate comes. "kernels": the
        weights; of one kernel per channel their means and extremes. "depth": mean, deviation and extremes of the gates
        from the first ECA to the last one. "classes": how far the classes' means are apart at each ECA, where there are
        two.

    Raises:
        NotInstalled: Without matplotlib; the extra `plots` brings it.
        TypeError: If the record is none. ValueError: If it is empty, for a class that nothing was recorded of, for more
        than six, or for another format. KeyError: For a path that the record does not have. OSError: If a file cannot
        be written.

    Example:
        >>> import torch
        >>> from eca_multi.gates import plot_gates
        >>> from eca_multi.torch import ECA, record_gates
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), ECA(8))
        >>> with record_gates(model) as gates, gates.label(["cat", "dog"]):
        ...     y = model(torch.rand(2, 3, 5, 5))
        >>> sorted(plot_gates(gates))
        ['channels', 'classes', 'depth', 'histogram', 'kernels']
    """
    chosen = shown_layers(record, layers)
    labels = shown_classes(chosen, classes)
    wrong = [one for one in ([formats] if isinstance(formats, str) else formats) if one not in FORMATS]
    if wrong or isinstance(formats, str):
        raise no_format(wrong[0] if wrong else formats, FORMATS)
    check_installed("plot_gates", "plots")
    from . import pictures
    from .figures import grid_of, in_our_style, single

    title = title_of_record(record)
    with in_our_style():
        figures = {
            "channels": grid_of(
                f"{title}: mean gate of each channel", pictures.channels, chosen, labels, labels=labels
            ),
            "histogram": grid_of(f"{title}: how often each comes", pictures.histogram, chosen),
            "kernels": grid_of(f"{title}: kernels", pictures.kernel, chosen),
            "depth": single(f"{title} by depth", DEPTH, pictures.depth, chosen),
        }
        if any(len(layer.classes) > 1 for layer in chosen):
            figures["classes"] = single(f"{title} by class", APART, pictures.apart, chosen)
        if folder is not None:
            Path(folder).mkdir(exist_ok=True)
            for name, figure in figures.items():
                for one in formats:
                    _write(figure, Path(folder) / f"{name}.{one}", one)
    return figures


def _write(figure: "Figure", file: Path, kind: str) -> None:
    drawn = BytesIO()
    unnamed = ("Creator", "Date", "Format", "Type") if kind == "svg" else ("Software",)
    figure.savefig(drawn, format=kind, metadata=dict.fromkeys(unnamed))  # equal records give equal bytes
    write_atomically(file, drawn.getvalue())
