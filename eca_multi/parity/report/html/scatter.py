"""Error against magnitude: where in the range of a tensor its errors lie, and where the budget lies."""

from collections.abc import Sequence

from .formats import count
from .markup import Markup, element, join
from .plot import BOTTOM, LEFT, RIGHT, TOP, Point, cross, dot, frame, gutter, label, panel, panels, path, picture
from .profiles import Profile, chosen, profiles
from .read import Row
from .scales import LogScale, decades_around

ACROSS, UPWARD = 36.0, 24.0  # pixels kept for zero, which has no place on a logarithmic axis
MARGIN = 8.0  # pixels by which the budget's line goes on beyond its first and last element
NAME = 48.0  # pixels of its name


def scatter(report: Row) -> Markup | None:
    """Return the section's content, or None where the report holds no elements."""
    ranked, dtypes = chosen([profile for profile in profiles(report) if profile.points])
    return panels(map(_panel, ranked), dtypes) if ranked else None


def _panel(profile: Profile) -> Markup:
    points = profile.points
    x = decades_around((reference for reference, _, _ in points), LEFT, RIGHT, slot=ACROSS)
    y = decades_around((v for _, error, budget in points for v in (error, budget)), BOTTOM, TOP, slot=UPWARD)
    over = [point for point in points if point[1] > point[2]]
    within = [point for point in points if point[1] <= point[2]]
    alternative = (
        f"Absolute error against the absolute reference, {profile.title}, {profile.note}. "
        f"{len(over)} of {count(len(points), 'element')} shown lie over the budget."
    )
    drawn = picture(
        alternative,
        gutter(x=x, y=y),
        frame(x.decades(), y.decades(), "|reference|", "|error|, in the unit of the tensor"),
        _budget(points, x, y),
        *(dot(x(reference), y(error), "within") for reference, error, _ in within),
        *(cross(x(reference), y(error), "over") for reference, error, _ in over),
    )
    return panel(profile.title, profile.note, drawn)


def _budget(points: Sequence[tuple[float, float, float]], x: LogScale, y: LogScale) -> Markup | None:
    """The budget as a line, the region that fails above it, and its name at its beginning."""
    curve: list[Point] = sorted((x(reference), y(budget)) for reference, _, budget in points if budget > 0)
    if not curve:
        return None
    left, right = max(curve[0][0] - MARGIN, LEFT), min(curve[-1][0] + MARGIN, RIGHT)
    edge = [(left, curve[0][1]), *curve, (right, curve[-1][1])]
    region = element("path", d=path([(left, TOP), *edge, (right, TOP)], closed=True), class_="beyond")
    stroke = element("path", d=path(edge), class_="limit")
    if left > LEFT + NAME:
        name = label(left - 5, curve[0][1] + 4, "budget", "limit-name", "end")
    else:
        name = label(left + 6, max(curve[0][1] - 6, TOP + 11), "budget", "limit-name", "start")
    return join(region, stroke, name)
