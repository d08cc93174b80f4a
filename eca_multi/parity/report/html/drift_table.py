"""What the verdict on training rests on: single steps, each of which starts from the reference's weights."""

from collections.abc import Mapping, Sequence

from .formats import NONE, use
from .markup import Markup, element, join
from .read import Row, numbers, text
from .tables import cross, figure, row, table


def one_step(groups: Mapping[tuple[str, str, str], Sequence[Row]], runners: Sequence[str]) -> Markup | None:
    """Return the worst budget use of each runner in each group of optimizer, case and dtype, or None without any."""
    worst = {
        (names, text(trained, "runner")): max(values)
        for names, group in groups.items()
        for trained in group
        if (values := [value for value in numbers(trained, "one_step") if value is not None])
    }
    if not worst:
        return None
    head = ("Runner", *(" · ".join(part for part in reversed(names) if part) for names in groups))
    body = [row(name, *(_use(worst.get((names, name))) for names in groups)) for name in runners]
    title = "Worst budget use of a single step"
    return join(element("h3", title), table(title, head, body, text=1))


def _use(value: float | None) -> Markup:
    if value is None:
        return figure(NONE)
    return element("td", cross() if value > 1 else None, use(value), class_="number")
