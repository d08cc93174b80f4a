"""The frame of a chart: its grid, its ticks and the names of its axes."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from .svg import COLOURS

WIDTH, HEIGHT = 360, 264  # of a chart: about pixels, on a desktop and on a telephone
Limits = tuple[tuple[float, float], tuple[float, float]]  # of the horizontal and the vertical axis
Ticks = tuple[dict[float, str], dict[float, str]]  # place and label of each


def grid(colours: Mapping[str, str] = COLOURS) -> dict[str, Any]:
    return {"color": colours["grid"], "linewidth": 1}


def chart(
    figure: Any,
    limits: Limits,
    ticks: Ticks,
    names: tuple[str, str],
    *,
    vertical: bool = True,
    colours: Mapping[str, str] = COLOURS,
) -> Axes:
    """Draw the grid, the ticks and the names of both axes; the vertical axis has its name over its end.

    matplotlib's own ticks would take most of the time that a page takes.
    """
    place = (48 / WIDTH, 1 - 218 / HEIGHT, 298 / WIDTH, 188 / HEIGHT)  # left, bottom, width, height
    (left, right), (bottom, top) = limits
    axes: Axes = figure.add_axes(place, xlim=limits[0], ylim=limits[1])
    axes.axis("off")
    if vertical:
        axes.vlines(list(ticks[0]), bottom, top, zorder=0.5, **grid(colours))
    axes.hlines(list(ticks[1]), left, right, zorder=0.5, **grid(colours))
    if ticks[1]:
        axes.hlines([bottom], left, right, color=colours["soft"], linewidth=1, zorder=0.6)
    style: dict[str, Any] = {"textcoords": "offset points", "color": colours["soft"]}
    for x, label in ticks[0].items():
        axes.annotate(label, (x, bottom), (0, -17), ha="center", **style)
    for y, label in ticks[1].items():
        axes.annotate(label, (left, y), (-7, -4), ha="right", **style)
    axes.annotate(names[0], (right, bottom), (0, -36), ha="right", **style)
    axes.annotate(names[1], (left, top), (-44, 14), ha="left", **style)
    return axes


def round_ticks(low: float, high: float, most: int = 5) -> dict[float, str]:
    """Return the places and labels of round numbers on a linear axis: steps of 1, 2 or 5 times a power of ten.

    Example:
        >>> from eca_multi._page.chart import round_ticks
        >>> round_ticks(0.0, 1.0)
        {0.0: '0', 0.2: '0.2', 0.4: '0.4', 0.6: '0.6', 0.8: '0.8', 1.0: '1.0'}
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))
    places = [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    digits = max(0, -math.floor(math.log10(step)))
    form = f".{digits}f" if digits < 7 and max(map(abs, places), default=0) < 1e6 else ".2g"
    return {round(place, digits + 1): f"{place:{form}}".replace("-", "\u2212") if place else "0" for place in places}
