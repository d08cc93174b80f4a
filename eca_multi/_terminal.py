"""The border to the terminal: text from outside cannot colour, move or hide anything there."""

from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from ._printable import printable


def say(text: object, *, err: bool = False) -> None:
    typer.echo(printable(text, lines=True), err=err)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return one line of parts for a `Terminal`, each a text or a (text, style)."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((printable(text), style) for text, style in pairs))


def lines(text: str) -> Text:
    """Return text of several lines for a `Terminal`: a worker's last output."""
    return Text(printable(text, lines=True))


class Terminal(Console):
    """A console that prints a str as one line of plain text: no markup, no emoji, no highlight, no escapes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make text of a str; Rich calls this for printed objects, cells of tables, and titles."""
        return super().render_str(printable(text), **options)
