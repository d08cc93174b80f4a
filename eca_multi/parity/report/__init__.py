"""What a run has found: the report as data, and its forms: terminal, JSON, JUnit XML and HTML."""

from collections.abc import Callable
from typing import Any

from .html import to_html
from .json import as_json
from .junit import to_junit

# The formats of a report, by name: each function makes text of what `Report.to_dict` returns.
FORMATS: dict[str, Callable[[dict[str, Any]], str]] = {"json": as_json, "html": to_html, "junit": to_junit}
