"""The pictures of recorded gates, drawn by matplotlib: one painter for the page and for files, in given colours."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from eca_multi._page.chart import HEIGHT, WIDTH, chart, round_ticks
from eca_multi._page.svg import shorten

from .layer import BINS, EDGES, LayerGates

MARKERS, SIGNS = "os^Dv*", "●■▲◆▼★"  # in charts, and the same in text
SIZE = (WIDTH, HEIGHT)
LARGEST = 1e30  # on an axis; a file may hold any number
Colours = Mapping[str, str]


def channels(figure: Any, colours: Colours, layer: LayerGates, labels: Sequence[Any] = ()) -> None:
    """Draw the mean gate of each channel for each class, over the band of mean ± deviation of all samples."""
    place = np.arange(layer.channels)
    spread = np.sqrt(np.maximum(layer.variance, 0))
    band = layer.mean - spread, layer.mean + spread
    shown = [(label, layer.classes[label].mean) for label in labels if label in layer.classes]
    y = _limits([*band, *(mean for _, mean in shown)], least=0.02)
    x = (-0.5, layer.channels - 0.5) if layer.channels == 1 else (0, layer.channels - 1)
    axes = chart(figure, (x, y), (_whole(*x), round_ticks(*y)), ("channel", "mean gate"), colours=colours)
    axes.fill_between(place, *band, color=colours["band"], linewidth=0, zorder=1)
    marked, thin = max(1, layer.channels // 12), 1.25 if layer.channels <= 128 else 0.75
    if not shown:
        axes.plot(place, layer.mean, color=colours["mark"], linewidth=thin, zorder=2)
    for number, label in enumerate(labels):
        style: dict[str, Any] = {"color": colours[f"s{number}"], "linewidth": thin, "zorder": 2, "markersize": 5}
        style |= {"marker": MARKERS[number], "markevery": (number * marked // len(labels), marked)}
        if label in layer.classes:
            axes.plot(place, layer.classes[label].mean, clip_on=False, **style)


def histogram(figure: Any, colours: Colours, layer: LayerGates) -> None:
    """Draw the share of gates in each bin, from the lowest to the highest bin that holds one."""
    inside = layer.histogram[1:-1]
    held = np.flatnonzero(inside)
    first, last = (held[0], held[-1] + 1) if len(held) else (0, BINS)
    first, last = max(0, min(first - 1, last - 6)), min(BINS, max(last + 1, first + 6))
    share = inside[first:last] / max(1, layer.histogram.sum())
    x, y = (EDGES[first], EDGES[last]), (0.0, max(float(share.max(initial=0)) * 1.08, 0.01))
    upward = {place: f"{100 * place:g} %" for place in round_ticks(*y)}
    names = ("gate", "share of the gates")
    axes = chart(figure, (x, y), (round_ticks(*x), upward), names, vertical=False, colours=colours)
    axes.bar(
        EDGES[first:last], share, width=0.88 * (EDGES[1] - EDGES[0]), align="edge", color=colours["mark"], zorder=2
    )


def kernel(figure: Any, colours: Colours, layer: LayerGates) -> None:
    """Draw the weights of the kernel by the distance of the neighbour; of one kernel per channel means and extremes."""
    rows = np.atleast_2d(layer.kernel)
    k = layer.kernel_size
    offsets, mean = np.arange(k) - k // 2, rows.mean(0)
    y = _limits([rows, np.zeros(1)], least=0.02)
    x = (-(k // 2) - 0.6, k // 2 + 0.6) if k > 1 else (-1.0, 1.0)
    step = math.ceil(k / 9)
    across = {
        float(place): f"{place:+d}".replace("-", "\u2212") if place else "0" for place in offsets if place % step == 0
    }
    names = ("neighbour channel", "weight")
    axes = chart(figure, (x, y), (across, round_ticks(*y)), names, vertical=False, colours=colours)
    axes.hlines([0.0], *x, color=colours["soft"], linewidth=1, zorder=1)
    if len(rows) > 1:
        style: dict[str, Any] = {"color": colours["band"], "linewidth": 9, "zorder": 1.5}
        axes.vlines(offsets, rows.min(0), rows.max(0), **style)
    axes.vlines(offsets, np.minimum(mean, 0), np.maximum(mean, 0), color=colours["mark"], linewidth=2.5, zorder=2)
    axes.plot(offsets, mean, "o", color=colours["mark"], markersize=6, zorder=3)


def depth(figure: Any, colours: Colours, layers: Sequence[LayerGates]) -> None:
    """Draw the mean gate of each ECA with its deviation, over the band of the lowest to the highest gate."""
    place = np.arange(1, len(layers) + 1)
    mean = np.array([layer.mean.mean() for layer in layers])
    spread = np.array([overall_deviation(layer) for layer in layers])
    low = np.array([layer.minimum.min() for layer in layers])
    high = np.array([layer.maximum.max() for layer in layers])
    x, y = (0.5, len(layers) + 0.5), _limits([low, high], least=0.02)
    axes = chart(figure, (x, y), (_whole(*x), round_ticks(*y)), ("ECA, from the input on", "gate"), colours=colours)
    if len(layers) > 1:
        axes.fill_between(place, low, high, color=colours["band"], linewidth=0, zorder=1)
    else:
        axes.vlines(place, low, high, color=colours["band"], linewidth=24, zorder=1)
    axes.vlines(place, mean - spread, mean + spread, color=colours["mark"], linewidth=1.5, zorder=2)
    axes.plot(place, mean, "o-", color=colours["mark"], linewidth=1, markersize=4.5, zorder=3)


def apart(figure: Any, colours: Colours, layers: Sequence[LayerGates]) -> None:
    """Draw how far the classes are apart at each ECA: the largest less the smallest mean gate, over the channels."""
    place = np.arange(1, len(layers) + 1)
    distance = np.array([class_distance(layer) for layer in layers])
    highest = 1.08 * max(distance[np.isfinite(distance)], default=0.0)
    x, y = (0.5, len(layers) + 0.5), (0.0, min(LARGEST, max(1e-3, highest)))
    names = ("ECA, from the input on", "distance of the classes")
    axes = chart(figure, (x, y), (_whole(*x), round_ticks(*y)), names, colours=colours)
    axes.plot(place, distance, "o-", color=colours["mark"], linewidth=1.25, markersize=4.5, zorder=3, clip_on=False)


def overall_deviation(layer: LayerGates) -> float:
    """Return the standard deviation of all gates of a layer, over rows and channels."""
    return float(np.sqrt(np.maximum(layer.variance, 0).mean() + layer.mean.var()))


def class_distance(layer: LayerGates) -> float:
    """Return the largest less the smallest mean gate of the classes, averaged over the channels; NaN below two."""
    means = [moments.mean for moments in layer.classes.values() if moments.count]
    return float(np.ptp(means, 0).mean()) if len(means) > 1 else float("nan")


def title_of(layer: LayerGates, most: int = 34) -> str:
    return shorten(layer.path, most)


def note_of(layer: LayerGates) -> str:
    """Say what the ECA is, and where the axes of its means are not the usual ones."""
    axes = "" if layer.pool_axes is None else f", pool_axes={layer.pool_axes}"
    axes += "" if layer.causal_axis is None else f", causal_axis={layer.causal_axis}"
    return f"{layer.channels} channels, k = {layer.kernel_size}, {shorten(layer.gate, 20)}{axes}"


def _limits(values: Iterable[Any], least: float) -> tuple[float, float]:
    """Return the ends of an axis with room around the finite values, `least` apart or more: noise shall look small."""
    numbers = np.concatenate([np.ravel(value) for value in values])
    numbers = np.clip(numbers[np.isfinite(numbers)], -LARGEST, LARGEST)
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
    room = max(0.06 * (high - low), (least - (high - low)) / 2)
    return low - room, high + room


def _whole(low: float, high: float) -> dict[float, str]:
    """Return the ticks of an axis of whole numbers."""
    ticks = round_ticks(low, high) if high > low else {low: f"{low:g}"}
    return {place: label for place, label in ticks.items() if place == round(place)}
