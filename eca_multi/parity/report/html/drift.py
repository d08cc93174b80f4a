"""Training: how far each runner's weights drift from the reference's, and the band in which rounding alone would."""

from collections.abc import Mapping, Sequence

from .drift_table import one_step
from .markup import Markup, element, join, shorten
from .plot import BOTTOM, LEFT, RIGHT, TOP, frame, gutter, label, panel, panels, path, picture
from .read import DTYPES, Row, case_order, in_order, numbers, ranking, rows, runner_names, text
from .scales import LogScale, decades_around, tight_around
from .series import key, marker, stroke

SLOT = 24.0  # pixels kept for zero
NAMED = 4  # lines outside of the band that carry their name in the chart
APART = 14.0  # pixels between two names

Pairs = list[tuple[float, float]]  # step, value
Group = tuple[str, str, str]  # optimizer, case, dtype


def drift(report: Row) -> Markup | None:
    """Return the section's content, or None where nothing was trained."""
    groups: dict[Group, list[Row]] = {}
    for trained in rows(report, "trajectories"):
        if _pairs(trained, "drift"):
            names = (text(trained, "optimizer"), text(trained, "case"), text(trained, "dtype"))
            groups.setdefault(names, []).append(trained)
    if not groups:
        return None
    present = {text(trained, "runner") for group in groups.values() for trained in group}
    runners = sorted(present, key=ranking(runner_names(report)))
    case, dtype = case_order(report), ranking(DTYPES)
    ordered = {names: groups[names] for names in sorted(groups, key=lambda g: (g[0], case(g[1]), dtype(g[2])))}
    columns = len(in_order((dtype for _, _, dtype in groups), DTYPES))
    drawn = [_panel(names, group, runners) for names, group in ordered.items()]
    return join(key(runners), panels(drawn, columns), one_step(ordered, runners))


def _panel(names: Group, group: Sequence[Row], runners: Sequence[str]) -> Markup:
    optimizer, case, dtype = names
    lines = {text(trained, "runner"): _pairs(trained, "drift") for trained in group}
    bands = sorted({tuple(_pairs(trained, "band")) for trained in group} - {()})
    outside = {text(trained, "runner") for trained in group if _leaves(trained)}
    every = [pair for pairs in (*lines.values(), *bands) for pair in pairs]
    room = [10 * max(value for _, value in every)] if outside else []  # for the names above the lines
    x = tight_around((step for step, _ in every), LEFT + 6, RIGHT - 8, slot=SLOT)
    y = decades_around([*(value for _, value in every), *room], BOTTOM, TOP, slot=SLOT)
    alternative = (
        f"Drift of the weights over the training steps, {dtype}, {optimizer}, case {case}. "
        f"Outside of the band: {', '.join(sorted(outside)) or 'no runner'}."
    )
    drawn = picture(
        alternative,
        gutter(y=y),
        *(_area(band, x, y) for band in bands),
        frame(x.round_numbers(26), y.decades(), "training step", "drift of the weights"),
        *(element("path", d=path((x(step), y(value)) for step, value in band), class_="limit") for band in bands),
        *(_line(runners.index(name), name, lines[name], x, y, name in outside) for name in runners if name in lines),
        *_names({runners.index(name): (name, lines[name]) for name in outside}, y),
    )
    return panel(dtype, " · ".join(part for part in (optimizer, case) if part), drawn)


def _line(place: int, name: str, pairs: Pairs, x: LogScale, y: LogScale, outside: bool) -> Markup:
    points = [(x(step), y(value)) for step, value in pairs]
    marks = [marker(place, *point) for point in points]
    return element("g", element("title", name), stroke(place, points, "outside" if outside else ""), *marks)


def _area(band: Sequence[tuple[float, float]], x: LogScale, y: LogScale) -> Markup:
    edge = [(x(step), y(value)) for step, value in band]
    return element("path", d=path([(edge[0][0], BOTTOM), *edge, (edge[-1][0], BOTTOM)], closed=True), class_="band")


def _names(outside: Mapping[int, tuple[str, Pairs]], y: LogScale) -> list[Markup]:
    """The names of the lines outside of the band with their markers, stacked over the last point of the highest."""
    ends = sorted(((y(pairs[-1][1]), place, name) for place, (name, pairs) in outside.items()), reverse=True)[-NAMED:]
    marks: list[Markup] = []
    bottom = min((end for end, _, _ in ends), default=0.0) - 11
    bottom = max(bottom, TOP + 8 + APART * (len(ends) - 1))
    for rank, (_, place, name) in enumerate(ends):
        height = bottom - APART * rank
        marks += [
            label(RIGHT - 18, height + 4, shorten(name, 26), "over-count", "end"),
            marker(place, RIGHT - 8, height),
        ]
    return marks


def _leaves(trained: Row) -> bool:
    limits = dict(_pairs(trained, "band"))
    return any(value > limits.get(step, value) for step, value in _pairs(trained, "drift"))


def _pairs(trained: Row, name: str) -> Pairs:
    """Steps with their values, in order; what has no value is left out."""
    pairs = zip(numbers(trained, "steps"), numbers(trained, name), strict=False)
    return sorted((step, abs(value)) for step, value in pairs if step is not None and value is not None)
