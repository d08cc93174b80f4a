"""From a matplotlib figure to an SVG that is part of a page: its colours, fonts and ids are the page's."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from eca_multi._printable import printable

# matplotlib is given numbers for colours; in the SVG they become variables of the style sheet, which knows dark pages.
_NAMES = ("text", "page", "soft", "grid", "fail", "fail-soft", "mark", "band", "s0", "s1", "s2", "s3", "s4", "s5")
COLOURS = {name: f"#0000{number:02x}" for number, name in enumerate(_NAMES, start=1)}
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_STYLE: Any = {
    "svg.fonttype": "none",  # text as text: it can be found, copied and read aloud
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": COLOURS["text"],
}
_UNIT = 72  # of the figures' dots in an inch, and so one unit of the SVG is one dot


def draw(
    paint: Callable[..., None], content: tuple[Any, ...], size: tuple[float, float], label: str, salt: str
) -> Markup:
    """Return a picture as markup.

    Args:
        paint: Draws the content into the figure that is its first argument, with `COLOURS` alone.
        content: The other arguments of `paint`.
        size: Width and height in units of the SVG, about a pixel each.
        label: The picture in words.
        salt: What the ids within this picture are made of; each picture of a page needs its own.
    """
    drawn = io.StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # the browser has other fonts
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": salt})
        figure = Figure(figsize=(size[0] / _UNIT, size[1] / _UNIT), dpi=_UNIT)
        paint(figure, *content)
        figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    head = f'<svg viewBox="0 0 {size[0]:g} {size[1]:g}" role="img" aria-label="{escape(clean(label))}">'
    body = re.sub(r"^.*?<svg[^>]*>|<style.*?</style>", "", drawn.getvalue(), flags=re.DOTALL)
    return Markup(head + re.sub("<[^<>]+>", _adapted, body).strip())  # text has no < and >: matplotlib escapes it


def clean(text: object) -> str:
    """Return printable text. Line ends stay; a document may hold no other control characters and no half characters."""
    return printable(str(text).replace("\r\n", "\n"), lines=True)


def shorten(text: object, most: int) -> str:
    """Return the text on one line of at most `most` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def _adapted(match: re.Match[str]) -> str:
    """Return a tag with the page's colours, without ids that other pictures have too and with our own as classes."""
    tag = re.sub("#0000[0-9a-f]{2}", lambda colour: _VARIABLES.get(colour[0], "currentColor"), match[0])
    tag = re.sub(r"font-family: [^;\"]*(; )?", "", tag.replace("xlink:href", "href"))
    if not tag.startswith("<g"):
        return tag
    name = re.search('id="class:([^"]*)"', tag)
    return f'<g class="{name[1]}">' if name else re.sub(' id="[^"]*"', "", tag)
