"""How runners are told apart in a chart of lines: by colour, by marker and, from the seventh on, by dashes."""

from collections.abc import Sequence

from .markup import Markup, element
from .plot import path, picture

COLOURS = 6  # .s0 to .s5 of the style sheet
MARKERS = (
    "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0Z",
    "M-2.7 -2.7h5.4v5.4h-5.4Z",
    "M0 -3.6L3.6 2.6H-3.6Z",
    "M0 -3.8L3.8 0L0 3.8L-3.8 0Z",
    "M0 3.6L3.6 -2.6H-3.6Z",
)
DASHES = (None, "5 3", "1.5 3")
NAMES = ("round", "square", "upward", "diamond", "downward")


def stroke(place: int, points: Sequence[tuple[float, float]], class_: str = "") -> Markup:
    """The line of the runner at this place."""
    dashes = DASHES[place // COLOURS % len(DASHES)]
    names = f"series s{place % COLOURS} {class_}".strip()
    return element("path", d=path(points), class_=names, stroke_dasharray=dashes)


def marker(place: int, x: float, y: float) -> Markup:
    shape = MARKERS[place % len(MARKERS)]
    return element("path", d=shape, transform=f"translate({x:.1f} {y:.1f})", class_=f"marker s{place % COLOURS}")


def key(runners: Sequence[str]) -> Markup:
    """The legend."""
    items = (element("li", _sample(place), " ", name) for place, name in enumerate(runners))
    return element("ul", *items, class_="legend")


def _sample(place: int) -> Markup:
    drawn = (stroke(place, [(1, 7), (31, 7)]), marker(place, 16, 7))
    return picture(f"line with {NAMES[place % len(NAMES)]} markers", *drawn, width=32, height=14, fixed=True)
