"""The formats of a report, by name: each function makes text of what `Report.to_dict` returns."""

from collections.abc import Callable
from typing import Any

from .html import to_html
from .json import as_json
from .junit import to_junit

FORMATS: dict[str, Callable[[dict[str, Any]], str]] = {"json": as_json, "html": to_html, "junit": to_junit}
