"""Localisation: the chain of named values from input to gradients, and the first one that goes wrong by itself."""

from collections.abc import Sequence

from .formats import NONE, TIMES, use, value_text
from .markup import Markup, element, join, shorten
from .plot import cross, dot, label, line, panels, picture
from .read import Row, mapping, number, rows, text
from .scales import LogScale, decades_around
from .tables import fold
from .verdicts import OPEN

WIDTH, ROW, HEAD, FOOT = 360, 27.0, 34.0, 30.0
SPINE, NAME, LEFT, RIGHT, PROPAGATED, ISOLATED = 12.0, 26.0, 106.0, 204.0, 284.0, 356.0  # the columns' places
OPENLY = 6  # chains that are shown before the rest is folded
LETTERS = 13  # of a tap's name that fit


def chain(report: Row) -> Markup | None:
    """Return the section's content, or None where nothing was localised."""
    found = [_panel(row) for row in rows(report, "localisations")]
    if not found:
        return None
    rest = fold(f"{len(found) - OPENLY} more", panels(found[OPENLY:], 3)) if found[OPENLY:] else None
    return join(panels(found[:OPENLY], min(len(found), 3)), rest)


def _panel(found: Row) -> Markup:
    where = " · ".join(text(found, key) for key in ("runner", "dtype", "case") if text(found, key))
    taps = rows(found, "chain")
    caption = element("figcaption", element("b", where), element("span", text(found, "line")))
    explanation = text(found, "explanation")
    facts = [element("p", element("b", "Likely why: "), explanation)] if explanation else []
    shrunk = mapping(found, "shrunk")
    if shrunk:
        sizes = ", ".join(f"{name}={value_text(shrunk[name])}" for name in shrunk)
        facts.append(element("p", "Smallest sizes that still fail: ", element("code", sizes)))
    if text(found, "replay"):
        facts.append(element("p", "Run it again: ", element("code", text(found, "replay"), class_="command")))
    return element("figure", caption, _drawn(where, found, taps) if taps else None, *facts, class_="panel")


def _drawn(where: str, found: Row, taps: Sequence[Row]) -> Markup:
    culprit = text(found, "culprit")
    measured = [v for tap in taps for key in ("propagated", "isolated") if (v := number(tap, key)) is not None]
    bottom = HEAD + ROW * len(taps) + 2
    x = decades_around([*measured, 1.0, 0.1], LEFT, RIGHT, slot=0.0)
    marks = [_heads(), *_axis(x, bottom), line((SPINE, HEAD + ROW / 2), (SPINE, bottom - ROW / 2 - 2), "spine")]
    directions = [text(tap, "direction") for tap in taps]
    for place, tap in enumerate(taps):
        top = HEAD + ROW * place
        if place and directions[place] != directions[place - 1]:
            marks.append(line((NAME, top), (ISOLATED, top), "turn"))
        marks.append(_tap(tap, top, x, culprit=text(tap, "tap") == culprit))
    alternative = f"Chain of {len(taps)} values, {where}: first divergence {culprit or 'none by itself'}"
    return picture(alternative, *marks, width=WIDTH, height=bottom + FOOT)


def _heads() -> Markup:
    middle = HEAD - 12
    return join(
        label(NAME, middle, "value", "tick", "start"),
        label((LEFT + RIGHT) / 2, middle, f"{TIMES} budget", "tick"),
        label(PROPAGATED, middle, "propagated", "tick", "end"),
        label(ISOLATED, middle, "isolated", "tick", "end"),
        dot(PROPAGATED - 76, middle - 4, "hollow", 3.4),
        dot(ISOLATED - 55, middle - 4, "full", 3),
    )


def _axis(x: LogScale, bottom: float) -> list[Markup]:
    ticks = x.decades(3)
    grid = [line((place, HEAD), (place, bottom), "grid") for place, _ in ticks]
    words = [label(place, bottom + 15, words, "tick") for place, words in ticks]
    return [*grid, line((x(1.0), HEAD), (x(1.0), bottom), "limit"), *words]


def _tap(tap: Row, top: float, x: LogScale, *, culprit: bool) -> Markup:
    y = top + ROW / 2
    propagated, isolated = number(tap, "propagated"), number(tap, "isolated")
    arrow = "↓ " if text(tap, "direction") == "forward" else "↑ " if text(tap, "direction") == "backward" else ""
    name = label(NAME, y + 4, arrow + shorten(text(tap, "tap"), LETTERS), "culprit" if culprit else "head", "start")
    band = element("rect", x=1.0, y=top + 1, width=WIDTH - 2.0, height=ROW - 2, rx=4, class_="culprit-row")
    node = [dot(SPINE, y, "node-culprit", 7.5), cross(SPINE, y, "node-cross", 2.8)]
    return element(
        "g",
        element("title", f"{text(tap, 'tap')}: {text(tap, 'verdict')}{', first divergence' if culprit else ''}"),
        *([band, *node] if culprit else [dot(SPINE, y, "node", 4.5)]),
        name,
        None if propagated is None else dot(x(propagated), y, "hollow", 4.2),
        None if isolated is None else dot(x(isolated), y, "full", 3),
        _amount(propagated, tap, PROPAGATED, y, culprit=False),
        _amount(isolated, tap, ISOLATED, y, culprit=culprit),
    )


def _amount(value: float | None, tap: Row, x: float, y: float, *, culprit: bool) -> Markup:
    if value is None and text(tap, "verdict") in OPEN | {"", "MISSING_TAP"}:
        return label(x, y + 4, NONE, "value", "end")  # not measured
    over = value is None or value > 1  # without a number: an infinity, a NaN or another shape
    kind = "culprit" if culprit else "over-count" if over else "value"
    return label(x, y + 4, f"✕ {use(value)}" if over else use(value), kind, "end")
