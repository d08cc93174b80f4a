"""Elements as text. What comes from a report is escaped here and nowhere else."""

from html import escape

from eca_multi._printable import printable

_VOID = frozenset({"br", "meta", "wbr"})


class Markup(str):
    """Text that is markup already. Any other text is escaped when it becomes part of an element."""

    __slots__ = ()


def clean(text: str) -> str:
    """Return the text as it is to be seen, lines as lines. No document may hold other controls or half characters."""
    return printable(text.replace("\r\n", "\n"), lines=True)


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Return one element.

    Args:
        tag: Its name.
        children: Markup as it is, anything else as escaped text. None is left out.
        attributes: `class_` is class, `aria_label` is aria-label. None is left out. Floats keep two decimals.
    """
    head = "".join(f' {_name(key)}="{_value(value)}"' for key, value in attributes.items() if value is not None)
    if tag in _VOID:
        return Markup(f"<{tag}{head}>")
    return Markup(f"<{tag}{head}>{join(*children)}</{tag}>")


def join(*children: object) -> Markup:
    return Markup("".join(_child(child) for child in children if child is not None))


def breakable(name: str) -> Markup:
    """A dotted name that may go on in the next line after each dot."""
    first, *others = name.split(".")
    return join(first, *(join(".", element("wbr"), part) for part in others))


def shorten(text: str, most: int) -> str:
    """Return the text on one line of at most `most` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def _child(child: object) -> str:
    return child if isinstance(child, Markup) else escape(clean(str(child)))


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return escape(clean(str(value)))
