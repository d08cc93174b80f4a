"""The page of recorded gates: its sections and the numbers in them."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from eca_multi._page import svg
from eca_multi._page.environment import environment

from . import pictures
from .layer import LayerGates
from .pictures import SIGNS, SIZE, note_of, overall_deviation, title_of
from .prune import THRESHOLD
from .shown import title_of_record


def render(record: Mapping[str, LayerGates], layers: Sequence[LayerGates], labels: Sequence[Any]) -> str:
    with np.errstate(all="ignore"):  # a file may hold any number
        return _page(record, layers, labels)


def _page(record: Mapping[str, LayerGates], layers: Sequence[LayerGates], labels: Sequence[Any]) -> str:
    view = _View(record, layers, labels)
    sections = [
        ("depth", "From the input on", layers),
        ("channels", "Mean gate of each channel", layers),
        ("histograms", "How often each gate comes", layers),
        ("kernels", "Kernels", layers),
        ("numbers", "Numbers", layers),
    ]
    page = templates().get_template("gates.html.j2")
    return page.render(view=view, title=view.title, sections=sections, pictures=_Pictures(labels))


@cache
def templates() -> Environment:
    made = environment(__package__)
    made.globals.update(signs=SIGNS, title_of=title_of, note_of=note_of, deviation=overall_deviation)
    made.filters.update(number=number, counted=counted)
    return made


class _View:
    """What the page says of the whole record."""

    def __init__(self, record: Mapping[str, LayerGates], layers: Sequence[LayerGates], labels: Sequence[Any]) -> None:
        self.title = title_of_record(record)
        self.labels = labels
        self.classes = len(dict.fromkeys(label for layer in layers for label in layer.classes))
        self.rows = max(layer.count for layer in layers)
        self.idle = [layer.path for layer in layers if layer.deviation <= THRESHOLD]
        self.threshold = THRESHOLD
        self.not_finite = [layer.path for layer in layers if layer.not_finite]


class _Pictures:
    """The pictures of one page; each has ids of its own, and a label in words."""

    def __init__(self, labels: Sequence[Any]) -> None:
        self.labels = labels
        self.drawn = 0

    def channels(self, layer: LayerGates) -> Markup:
        between = f"from {number(layer.mean.min())} to {number(layer.mean.max())}"
        words = f"Mean gate of each of {layer.channels} channels of {layer.path}, {between}"
        return self._draw(pictures.channels, (layer, self.labels), words)

    def histogram(self, layer: LayerGates) -> Markup:
        between = f"from {number(layer.minimum.min())} to {number(layer.maximum.max())}"
        return self._draw(pictures.histogram, (layer,), f"Histogram of the gates of {layer.path}, {between}")

    def kernel(self, layer: LayerGates) -> Markup:
        weights = ", ".join(map(number, layer.kernel)) if layer.kernel.ndim == 1 else f"{layer.channels} kernels"
        return self._draw(pictures.kernel, (layer,), f"Kernel of {layer.path}: {weights}")

    def depth(self, layers: Sequence[LayerGates]) -> Markup:
        means = ", ".join(number(layer.mean.mean()) for layer in layers)
        return self._draw(pictures.depth, (layers,), f"Mean gate of each ECA: {means}")

    def apart(self, layers: Sequence[LayerGates]) -> Markup:
        distances = ", ".join(number(pictures.class_distance(layer)) for layer in layers)
        return self._draw(pictures.apart, (layers,), f"Distance of the classes at each ECA: {distances}")

    def _draw(self, paint: Callable[..., None], content: tuple[Any, ...], label: str) -> Markup:
        self.drawn += 1
        return svg.draw(paint, (svg.COLOURS, *content), SIZE, label, f"gates {self.drawn}")


def number(value: float) -> str:
    """Return four decimals, or as few digits as a small number needs; of what is no number, a dash."""
    if value != value:
        return "\u2013"
    text = f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
    return text.replace("-", "\u2212")


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
