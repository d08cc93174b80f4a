"""The parts that the charts share: the canvas, the frame with its ticks, marks, and the grid of panels."""

from collections.abc import Iterable, Sequence

from .markup import Markup, element, join
from .scales import LogScale, Tick

WIDTH, HEIGHT = 360, 264  # of one panel, in the units of its viewBox: about a pixel on a desktop and on a telephone
LEFT, RIGHT, TOP, BOTTOM = 48, 346, 30, 218  # the plot within the panel

Point = tuple[float, float]


def picture(label: str, *children: object, width: float = WIDTH, height: float = HEIGHT, fixed: bool = False) -> Markup:
    """An SVG. A fixed one keeps its size and is put into a box that scrolls; others follow their column."""
    size = {"width": width, "height": height} if fixed else {"class_": "fluid"}
    box = f"0 0 {width:g} {height:g}"
    return element("svg", *children, viewBox=box, role="img", aria_label=label, **size)


def panel(title: str, note: str, drawing: Markup) -> Markup:
    """One chart with its heading."""
    caption = element("figcaption", element("b", title), element("span", note, class_="note") if note else None)
    return element("figure", caption, drawing, class_="panel chart")


def panels(children: Iterable[Markup], columns: int) -> Markup:
    """Charts side by side where there is room, below each other where there is not."""
    return element("div", *children, class_="panels", style=f"--columns:{columns}")


def frame(
    x_ticks: Sequence[Tick], y_ticks: Sequence[Tick], x_label: str, y_label: str, *, upright: bool = True
) -> Markup:
    """Grid, ticks and the names of both axes; the vertical one's stands over its end, to be read without turning.

    `upright` says whether the grid has vertical lines.
    """
    grid = [line((x, TOP), (x, BOTTOM), "grid") for x, _ in x_ticks if upright]
    grid += [line((LEFT, y), (RIGHT, y), "grid") for y, _ in y_ticks]
    words = [label(x, BOTTOM + 17, text, "tick") for x, text in x_ticks]
    words += [label(LEFT - 7, y + 4, text, "tick", "end") for y, text in y_ticks]
    words += [label(RIGHT, BOTTOM + 36, x_label, "name", "end"), label(4, TOP - 14, y_label, "name", "start")]
    return join(*grid, line((LEFT, BOTTOM), (RIGHT, BOTTOM), "axis"), *words)


def gutter(*, x: LogScale | None = None, y: LogScale | None = None) -> Markup | None:
    """A tint under the places that zero has on logarithmic axes: they are no part of the scale."""
    strips = []
    if x is not None and x.slot:
        strips.append(box(LEFT, TOP, x.slot * 2 / 3, BOTTOM - TOP, "gutter"))
    if y is not None and y.slot:
        strips.append(box(LEFT, BOTTOM - y.slot * 2 / 3, RIGHT - LEFT, y.slot * 2 / 3, "gutter"))
    return join(*strips) if strips else None


def label(x: float, y: float, text: object, class_: str, anchor: str = "middle") -> Markup:
    return element("text", text, x=float(x), y=float(y), class_=class_, text_anchor=anchor)


def line(start: Point, end: Point, class_: str) -> Markup:
    return element("path", d=path([start, end]), class_=class_)


def path(points: Iterable[Point], *, closed: bool = False) -> str:
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return d + "Z" if closed else d


def cross(x: float, y: float, class_: str, reach: float = 3.2) -> Markup:
    """The mark of a failure, in every chart."""
    left, right, top, bottom = x - reach, x + reach, y - reach, y + reach
    strokes = path([(left, top), (right, bottom)]) + path([(left, bottom), (right, top)])
    return element("path", d=strokes, class_=class_)


def dot(x: float, y: float, class_: str, radius: float = 2.6) -> Markup:
    return element("circle", cx=float(x), cy=float(y), r=float(radius), class_=class_)


def box(x: float, y: float, width: float, height: float, class_: str) -> Markup:
    return element("rect", x=float(x), y=float(y), width=float(width), height=float(height), class_=class_)
