"""The templates of a page: its own folder's, and the base, the macros and the style that all pages share."""

from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .svg import clean, shorten

# Nothing is fetched, nothing runs: the browser is told so too.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def environment(package: str, style: str = "") -> Environment:
    """Return the templates of a package. Text is cleaned and escaped where it is put into one, and nowhere else.

    Args:
        package: Whose folder `templates` is looked into first.
        style: Of the page alone; it stands behind the shared style sheet.
    """
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("eca_multi._page")]),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else "" if value is None else clean(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    shared: dict[str, Any] = {"policy": POLICY, "style": Markup(style_sheet() + style)}
    made.globals.update(shared)
    made.filters.update(shorten=shorten)
    return made


def style_sheet(package: str = "eca_multi._page") -> str:
    return files(package).joinpath("templates/style.css").read_text(encoding="utf-8")
