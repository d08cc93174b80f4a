"""The report as one HTML file: Jinja2 writes the page, matplotlib the pictures; no network, script or second file.

Both packages come with the extra `parity`, and are imported when a page is written.
"""

from collections.abc import Mapping
from typing import Any

from eca_multi import _page


def to_html(report: Mapping[str, Any]) -> str:
    """Return the report as one HTML page that stands alone: equal reports give equal bytes.

    Args:
        report: The JSON report, schema 2. What it lacks is left out.

    Raises:
        NotInstalled: If Jinja2 or matplotlib is not installed.

    Example:
        >>> from eca_multi.parity.report.html import to_html
        >>> to_html({"exit_code": 4}).startswith("<!doctype html>")
        True
    """
    check_installed()
    from .page import render

    return render(report)


def check_installed() -> None:
    """Raise NotInstalled if Jinja2 or matplotlib is not installed here."""
    _page.check_installed("The HTML report", "parity")
