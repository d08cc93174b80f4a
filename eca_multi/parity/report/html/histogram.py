"""How much of its budget each element uses: many that use a little, or a few that use it up."""

import math
from collections.abc import Sequence

from .formats import count, power_of_two
from .markup import Markup, element
from .plot import BOTTOM, LEFT, RIGHT, TOP, box, cross, frame, label, panel, panels, path, picture
from .profiles import BINS, Profile, chosen, profiles
from .read import Row
from .scales import Tick

GAP = 10.0  # between the bins of the scale and those beside it: exactly 0, and over the budget
BIN = (RIGHT - LEFT - 2 * GAP) / BINS
OVER = BINS - 1  # the bin over the budget


def histogram(report: Row) -> Markup | None:
    """Return the section's content, or None where the report counts no elements."""
    found = [profile for profile in profiles(report) if sum(profile.histogram) > 0]
    ranked, dtypes = chosen(found)
    return panels((_panel(profile, found) for profile in ranked), dtypes) if ranked else None


def _panel(profile: Profile, found: Sequence[Profile]) -> Markup:
    same = [other.histogram for other in found if other.title == profile.title]
    shares, background = _shares(profile.histogram), _shares([sum(column) for column in zip(*same, strict=True)])
    most = max(*shares, *background)
    step = next(step for step in (0.05, 0.1, 0.2, 0.25) if most <= 5 * step or step == 0.25)
    marks = math.ceil(most / step - 1e-9)
    unit = (BOTTOM - TOP) / (marks * step)
    heights = [BOTTOM - unit * share for share in shares]
    total, over, exact = (int(n) for n in (sum(profile.histogram), profile.histogram[OVER], profile.histogram[0]))
    alternative = (
        f"Histogram of error over budget, {profile.title}, {profile.note}. "
        f"Of {count(total, 'element')} {over:,} lie over the budget and {exact:,} are exact."
    )
    y_ticks = [(BOTTOM - unit * step * mark, Markup(f"{step * mark:.0%}")) for mark in range(marks + 1)]
    drawn = picture(
        alternative,
        frame(_ticks(), y_ticks, "|error| / budget", "share of the elements", upright=False),
        *(_bar(place, height) for place, height in enumerate(heights) if shares[place]),
        _outline([BOTTOM - unit * share for share in background]),
        _over(over, heights[OVER]),
    )
    return panel(profile.title, f"{profile.note} · {count(total, 'element')}", drawn)


def _bar(place: int, height: float) -> Markup:
    return box(_left(place) + 1, height, BIN - 2, BOTTOM - height, "bar-over" if place == OVER else "bar")


def _over(over: int, height: float) -> Markup | None:
    """The number over the budget in figures: one element of a million has no height."""
    if not over:
        return None
    x, y = _left(OVER) + BIN / 2, max(height - 10, TOP + 6)
    return element("g", cross(x, y, "over"), label(x - 8, y + 4, f"{over:,}", "over-count", "end"))


def _outline(heights: Sequence[float]) -> Markup:
    """All tensors of the dtype, as the upper edge of their bars; broken where the scale is."""
    edges = [[(_left(place), height), (_left(place) + BIN, height)] for place, height in enumerate(heights)]
    scaled = [corner for edge in edges[1:OVER] for corner in edge]
    return element("path", d=path(edges[0]) + path(scaled) + path(edges[OVER]), class_="outline")


def _ticks() -> list[Tick]:
    """The upper edges of every third scaled bin, and the two bins beside the scale."""
    edges = [(_left(place) + BIN, power_of_two(place - OVER + 1)) for place in range(1, OVER, 3)]
    return [(_left(0) + BIN / 2, Markup("0")), *edges, (_left(OVER) + BIN / 2, Markup("&gt;1"))]


def _left(place: int) -> float:
    return LEFT + place * BIN + GAP * ((place > 0) + (place == OVER))


def _shares(counts: Sequence[float]) -> list[float]:
    return [number / sum(counts) for number in counts]
