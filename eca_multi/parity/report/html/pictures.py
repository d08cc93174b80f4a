"""The pictures of a page, drawn by matplotlib: the chain, errors against magnitude, the histogram, and the drift."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eca_multi._page import svg
from eca_multi._page.chart import HEIGHT, WIDTH, chart, grid
from eca_multi._page.svg import COLOURS, shorten
from eca_multi.parity.report.view.elements import BINS, Profile
from eca_multi.parity.report.view.localised import Localised, Tap
from eca_multi.parity.report.view.training import Drift, Training
from eca_multi.parity.report.view.wording import NONE, TIMES, power, use

MARKERS = "os^Dv"
SIGNS = "●■▲◆▼"  # the same for the legend of the page
ROW, HEAD, FOOT = 26.0, 30.0, 30.0  # of the chain
_COLUMNS = {
    "value": (8, "left"), f"{TIMES} budget": (155, "center"), "propagated": (284, "right"), "isolated": (356, "right"),
}  # fmt: skip
LIMIT: dict[str, Any] = {"color": COLOURS["text"], "linestyle": (0, (4, 2.5)), "linewidth": 1.25}
GRID = grid()
NAMED = 4  # runners outside of the band whose names stand in the chart
LONGEST = 26  # letters of a name in a chart
ZERO = 0.8  # decades between zero and the smallest number on an axis


class LogAxis:
    """A logarithmic axis: from numbers to places, with a place for zero below the smallest number, and the ticks."""

    def __init__(self, values: Iterable[float], *, tight: bool = False) -> None:
        numbers = list(values)
        logs = [math.log10(value) for value in numbers if value > 0] or [0.0]
        low, high = (min(logs), max(logs)) if tight else (math.floor(min(logs)), math.ceil(max(logs)))
        self.low, self.high = low, max(high, low + 1)
        self.zero = low - ZERO * max(1.0, (self.high - low) / 8)
        self.has_zero = any(value <= 0 for value in numbers)

    @property
    def limits(self) -> tuple[float, float]:
        return (self.zero - (self.low - self.zero) / 2 if self.has_zero else self.low), self.high

    def __call__(self, value: float) -> float:
        return math.log10(value) if value > 0 else self.zero

    def decades(self, most: int = 6) -> dict[float, str]:
        """Return the places and labels of whole powers of ten, about `most`, and of zero where there is one."""
        powers = range(math.ceil(self.low), math.floor(self.high) + 1)
        stride = math.ceil(len(powers) / most) or 1
        return self._zero() | {float(p): power(10, p) for p in powers if p % stride == 0}

    def round_numbers(self, most: int = 9) -> dict[float, str]:
        """Return the places and labels of 1, 2, 5, 10, 20 ..., as far apart as `most` of them would be."""
        places = self._zero()
        apart = (self.high - self.low) / most
        for exponent in range(math.floor(self.low), math.floor(self.high) + 1):
            for digit in (1, 2, 5):
                place = exponent + math.log10(digit)
                if self.low <= place <= self.high + 1e-9 and place - max(places, default=-math.inf) >= apart:
                    places[place] = f"{digit}e{exponent}" if abs(exponent) > 4 else f"{digit * 10.0**exponent:g}"
        return places

    def _zero(self) -> dict[float, str]:
        return {self.zero: "0"} if self.has_zero else {}


class Pictures:
    """The pictures of one page; each has ids of its own."""

    def __init__(self) -> None:
        self.drawn = 0

    def chain(self, localised: Localised) -> Markup:
        """Draw each tap of the chain with its propagated and its isolated error as shares of the budget."""
        height = HEAD + ROW * len(localised.taps) + FOOT
        return self._draw(_chain, (localised.taps, localised.culprit), localised.label, height)

    def scatter(self, profile: Profile) -> Markup:
        """Draw the error of each element against its magnitude, and the budget."""
        return self._draw(_scatter, (profile.points,), profile.label)

    def histogram(self, profile: Profile, background: Sequence[float]) -> Markup:
        """Draw the share of elements in each bin; `background` counts those of all tensors of the dtype."""
        return self._draw(_histogram, (profile.counts, tuple(background)), profile.histogram_label)

    def drift(self, training: Training, runners: Sequence[str]) -> Markup:
        """Draw the drift of each runner over the steps, and the band."""
        return self._draw(_drift, (training.drifts, tuple(runners)), training.label)

    def _draw(self, paint: Callable[..., None], content: tuple[Any, ...], label: str, height: float = HEIGHT) -> Markup:
        self.drawn += 1
        return svg.draw(paint, content, (WIDTH, height), label, f"picture {self.drawn}")


def _chain(figure: Figure, taps: Sequence[Tap], culprit: str) -> None:
    bottom = HEAD + ROW * len(taps)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(bottom + FOOT, 0))
    axes.axis("off")
    for words, (place, align) in _COLUMNS.items():
        axes.text(place, HEAD - 12, words, ha=align, va="center", color=COLOURS["soft"])
    _point(axes, 209, HEAD - 12, hollow=True)
    _point(axes, 299, HEAD - 12)
    x = LogAxis([1.0, 0.1, *(abs(share) for tap in taps for share in (tap.propagated, tap.isolated) if share)])
    low, high = x.limits
    for exponent, label in x.decades(3).items():
        across = 106 + 98 * (exponent - low) / (high - low)
        axes.vlines([across], HEAD, bottom, zorder=0.5, **(LIMIT if exponent == 0 else GRID))
        axes.text(across, bottom + 14, label, ha="center", va="center", color=COLOURS["soft"])
    for number, tap in enumerate(taps):
        y = HEAD + ROW * (number + 0.5)
        _tap(axes, tap, y, is_culprit=bool(tap.name) and tap.name == culprit)
        for share, hollow in ((tap.propagated, True), (tap.isolated, False)):
            if share is not None:
                _point(axes, 106 + 98 * (x(abs(share)) - low) / (high - low), y, hollow=hollow)


def _tap(axes: Axes, tap: Tap, y: float, *, is_culprit: bool) -> None:
    if is_culprit:
        band: dict[str, Any] = {"color": COLOURS["fail-soft"], "linewidth": 0, "zorder": 0.1}
        axes.axhspan(y - ROW / 2 + 1, y + ROW / 2 - 1, gid="class:culprit-row", **band)
    name = ("✕ " if is_culprit else "") + tap.arrow + shorten(tap.name, 13)
    axes.text(8, y, name, va="center", fontweight=700, color=COLOURS["fail" if is_culprit else "text"])
    for place, share in ((284, tap.propagated), (356, tap.isolated)):
        is_over = tap.is_measured if share is None else share > 1
        words = NONE if share is None and not is_over else f"✕ {use(share)}" if is_over else use(share)
        style: dict[str, Any] = {"color": COLOURS["fail"], "fontweight": 700} if is_over else {}
        axes.text(place, y, words, ha="right", va="center", **style)


def _point(axes: Axes, x: float, y: float, *, hollow: bool = False) -> None:
    face, size = (COLOURS["page"], 7.5) if hollow else (COLOURS["mark"], 5)
    axes.plot([x], [y], "o", ms=size, mfc=face, mec=COLOURS["mark"], mew=1.75, clip_on=False, zorder=3 - hollow)


def _scatter(figure: Figure, points: Sequence[tuple[float, float, float]]) -> None:
    x, y = LogAxis(p[0] for p in points), LogAxis(v for _, error, budget in points for v in (error, budget))
    names = ("|reference|", "|error|, in the unit of the tensor")
    axes = chart(figure, (x.limits, y.limits), (x.decades(), y.decades()), names)
    curve = sorted((x(reference), y(budget)) for reference, _, budget in points if budget > 0)
    if curve:
        edge = [(x.limits[0], curve[0][1]), *curve, (x.limits[1], curve[-1][1])]
        across, upward = zip(*edge, strict=True)
        axes.fill_between(across, upward, y.limits[1], color=COLOURS["fail"], alpha=0.08, linewidth=0)
        axes.plot(across, upward, **LIMIT)
        place = ((x.limits[1] - x.limits[0]) * 0.02 + x.limits[0], curve[0][1])
        axes.annotate("budget", place, (0, 4), textcoords="offset points", fontsize=11, fontweight=700)
    for is_over, style in ((False, "o"), (True, "x")):
        places = [(x(reference), y(error)) for reference, error, budget in points if (error > budget) == is_over]
        colour = COLOURS["fail" if is_over else "mark"]
        across, upward = zip(*places, strict=True) if places else ((), ())
        axes.plot(across, upward, style, color=colour, ms=6 - (not is_over), mew=1.75 * is_over, clip_on=False)


def _histogram(figure: Figure, counts: Sequence[float], all_counts: Sequence[float]) -> None:
    shares, background = ([number / sum(column) for number in column] for column in (counts, all_counts))
    most = max(*shares, *background)
    step = next(step for step in (0.05, 0.1, 0.2, 0.25) if most <= 5 * step or step == 0.25)
    top = math.ceil(most / step - 1e-9)
    # Exact elements and those over the budget stand beside the scale.
    left = [0.0, *(0.4 + place for place in range(1, BINS - 1)), BINS - 1 + 0.8]
    powers = {left[place] + 1: power(2, place - BINS + 2) for place in range(1, BINS - 1, 3)}
    x_ticks = {0.5: "0", **powers, left[-1] + 0.5: ">1"}
    y_ticks = {step * mark: f"{step * mark:.0%}" for mark in range(top + 1)}
    limits, names = ((-0.1, left[-1] + 1.1), (0, top * step)), ("|error| / budget", "share of the elements")
    axes = chart(figure, limits, (x_ticks, y_ticks), names, vertical=False)
    colours = [COLOURS["mark"]] * (BINS - 1) + [COLOURS["fail"]]
    axes.bar([edge + 0.5 for edge in left], shares, 0.92, color=colours, zorder=2)
    for places in ((0,), range(1, BINS - 1), (BINS - 1,)):
        edges = [left[place] for place in places] + [left[places[-1]] + 1]
        values = [background[place] for place in places]
        axes.stairs(values, edges, baseline=None, color=COLOURS["text"], linewidth=1.25, zorder=3)
    if over := int(counts[-1]):  # one element of a million has no height
        height = min(shares[-1] + 0.02 * top * step, 0.93 * top * step)
        style: dict[str, Any] = {"ha": "right", "color": COLOURS["fail"], "fontweight": 700}
        axes.text(left[-1] + 0.95 if over < 100 else left[-1] - 0.1, height, f"{over:,} ✕", **style)


def _drift(figure: Figure, drifts: Sequence[Drift], runners: Sequence[str]) -> None:
    pairs = [pair for drift in drifts for pair in (*drift.line, *drift.band)]
    outside = [drift for drift in drifts if drift.leaves_the_band]
    room = [10 * max(value for _, value in pairs)] if outside else []  # for the names
    x, y = LogAxis((step for step, _ in pairs), tight=True), LogAxis([*(value for _, value in pairs), *room])
    margin = 0.02 * (x.limits[1] - x.limits[0])
    limits = ((x.limits[0] - margin, x.limits[1] + margin), y.limits)
    axes = chart(figure, limits, (x.round_numbers(), y.decades()), ("training step", "drift of the weights"))
    for band in sorted({drift.band for drift in drifts} - {()}):
        across, upward = [x(step) for step, _ in band], [y(value) for _, value in band]
        axes.fill_between(across, upward, y.limits[0], color=COLOURS["band"], linewidth=0, zorder=0)
        axes.plot(across, upward, **LIMIT)
    for drift in drifts:
        place = runners.index(drift.runner)
        across, upward = [x(step) for step, _ in drift.line], [y(value) for _, value in drift.line]
        style: dict[str, Any] = {"color": COLOURS[f"s{place % 6}"], "marker": MARKERS[place % len(MARKERS)], "ms": 5.5}
        style |= {"mec": COLOURS["page"], "mew": 0.75, "linewidth": 2.5 if drift.leaves_the_band else 1.5}
        axes.plot(across, upward, clip_on=False, gid="class:drift", **style)
    farthest = sorted(outside, key=lambda drift: drift.line[-1][1], reverse=True)
    for number, drift in enumerate(farthest[:NAMED]):
        place = runners.index(drift.runner)
        words = f"{shorten(drift.runner, LONGEST)} {SIGNS[place % len(SIGNS)]}"
        style = {"ha": "right", "va": "top", "color": COLOURS["fail"], "fontweight": 700, "gid": "class:outside"}
        style |= {"xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(words, (1, 1), (0, -2 - 14 * number), **style)
