"""Figures that stand alone, in the colours of a light page: a title, a legend, and a chart for each layer."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from eca_multi._page.environment import style_sheet
from eca_multi._page.svg import shorten

from .layer import LayerGates
from .pictures import MARKERS, SIZE, Colours, note_of, title_of

UNIT = 72  # of the charts' dots in an inch
RESOLUTION = 144  # dots in an inch of a .png
COLUMNS = 4
TITLE, LEGEND, HEAD = 34.0, 28.0, 36.0  # the heights of what stands above all charts, and above each
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gates",  # equal records give equal bytes
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11.5,
}


@contextmanager
def in_our_style() -> Iterator[None]:
    """Draw and write as on the page, whatever the caller's matplotlib is set to."""
    with matplotlib.rc_context(), warnings.catch_warnings(), np.errstate(all="ignore"):  # a file may hold any number
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def light_colours() -> dict[str, str]:
    """Return the colours of a light page by name, as the style sheet has them."""
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", style_sheet().partition("@media")[0]))


def grid_of(
    title: str, paint: Callable[..., None], layers: Sequence[LayerGates], *more: Any, labels: Sequence[Any] = ()
) -> Figure:
    """Return a figure with a chart for each layer."""
    charts = [(title_of(layer), note_of(layer), (layer, *more)) for layer in layers]
    return _figure(title, paint, charts, labels)


def single(title: str, note: str, paint: Callable[..., None], content: Any) -> Figure:
    """Return a figure of one chart."""
    return _figure(title, paint, [("", note, (content,))], ())


def _figure(
    title: str, paint: Callable[..., None], charts: Sequence[tuple[str, str, Any]], labels: Sequence[Any]
) -> Figure:
    colours = light_colours()
    columns = min(COLUMNS, len(charts))
    rows = ceil(len(charts) / columns)
    above = TITLE + (LEGEND if labels else 0)
    width, height = columns * SIZE[0], above + rows * (HEAD + SIZE[1])
    figure = Figure(figsize=(width / UNIT, height / UNIT), dpi=RESOLUTION, facecolor=colours["page"])
    parts: Any = figure.subfigures(2, 1, height_ratios=(above, height - above))
    top, body = parts
    _head(top, above, title, labels, columns, colours)
    cells = body.subfigures(rows, columns, squeeze=False).ravel()
    for cell, (name, note, content) in zip(cells, charts, strict=False):  # the last row may have cells to spare
        head, chart = cell.subfigures(2, 1, height_ratios=(HEAD, SIZE[1]))
        left = 4 / SIZE[0]
        head.text(left, 0.72, name, weight="bold", color=colours["text"], va="center")
        head.text(left, 0.26, note, color=colours["soft"], va="center", size=10)
        paint(chart, colours, *content)
    return figure


def _head(top: Any, height: float, title: str, labels: Sequence[Any], columns: int, colours: Colours) -> None:
    left = 4 / (columns * SIZE[0])
    words = shorten(title, 42 * columns)
    top.text(left, 1 - TITLE / 2 / height, words, color=colours["text"], size=14, weight="bold", va="center")
    most = 24 if columns > 1 else 9
    handles = [
        Line2D([], [], color=colours[f"s{n}"], marker=MARKERS[n], label=shorten(label, most))
        for n, label in enumerate(labels)
    ]
    if handles:
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (left, LEGEND / 2 / height)}
        top.legend(
            handles=handles, ncols=len(handles), frameon=False, labelcolor=colours["text"], fontsize=11, borderpad=0,
            borderaxespad=0, handlelength=1.2, columnspacing=0.9, handletextpad=0.4, **place,
        )  # fmt: skip
