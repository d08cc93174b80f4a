"""Tables, and the box in which a wide one scrolls so that the page does not."""

from collections.abc import Iterable, Sequence

from .markup import Markup, element


def scroll(label: str, *children: object, class_: str = "") -> Markup:
    """A box of its own scroll bar; it can have the keyboard's focus, or it could not be scrolled without a mouse."""
    names = f"scroll {class_}".strip()
    return element("div", *children, class_=names, role="region", aria_label=label, tabindex="0")


def table(
    caption: str, head: Sequence[str], *groups: Iterable[Markup], class_: str | None = None, text: int | None = None
) -> Markup:
    """A table within a box that scrolls.

    Args:
        caption: Its name, for those who cannot see what stands around it.
        head: The names of the columns.
        groups: Rows as `row` makes them.
        class_: "prose" for one whose cells may break into lines.
        text: How many columns hold text; the others hold numbers. None is all.
    """
    kinds = [None if text is None or place < text else "number" for place in range(len(head))]
    names = (element("th", name, scope="col", class_=kind) for name, kind in zip(head, kinds, strict=True))
    top = element("thead", element("tr", *names))
    bodies = [element("tbody", *rows) for rows in groups]
    return scroll(caption, element("table", element("caption", caption), top, *bodies, class_=class_))


def row(first: object, *cells: object) -> Markup:
    """A row: its heading, then its cells. A cell that is a `td` already stays as it is."""
    return element("tr", element("th", first, scope="row"), *map(_cell, cells))


def group(title: object, note: str, columns: int) -> Markup:
    """The heading of the rows below it in their group."""
    words = (title, " ", element("span", note, class_="note"))
    return element("tr", element("th", *words, scope="rowgroup", colspan=columns), class_="group")


def figure(content: object) -> Markup:
    """A cell that holds a number: aligned to the right, digits of one width."""
    return element("td", content, class_="number")


def cross() -> Markup:
    """The mark of what failed, before its name."""
    return element("b", "✕\u00a0", class_="fail")


def fold(summary: object, *children: object) -> Markup:
    """What is opened on demand."""
    return element("details", element("summary", summary), *children)


def _cell(content: object) -> Markup:
    if isinstance(content, Markup) and content.startswith("<td"):
        return content
    return element("td", content)
