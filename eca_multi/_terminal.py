"""The border to the terminal. Text from outside is seen as itself: it has no colour, moves and hides nothing."""

from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from ._printable import printable


def say(text: object, *, err: bool = False) -> None:
    """Print text, which may have lines."""
    typer.echo(printable(text, lines=True), err=err)


def styled(*parts: str | tuple[str, str]) -> Text:
    """One line of parts for a `Terminal`, each as it is or with a style of ours."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((printable(text), style) for text, style in pairs))


def lines(text: str) -> Text:
    """Text of several lines, for a `Terminal`: a worker's last words."""
    return Text(printable(text, lines=True))


class Terminal(Console):
    """A console for which a str is one line of text and no more: no markup, no emoji, no highlight, no escapes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Where Rich makes text of a str: of what is printed, of a table's cells, of titles."""
        return super().render_str(printable(text), **options)
