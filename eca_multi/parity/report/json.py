"""Reports as JSON: written so that equal results give equal bytes, and checked when they are read."""

import json
import math
import os
from pathlib import Path
from typing import Any

from eca_multi._parsing import parse_json, parsing
from eca_multi.parity.explain.bundle import is_replay_command, without_trust

SCHEMA = 2
# The type of each field, and the texts that every reader takes from a row.
_FIELDS = {
    "exit_code": int, "without_result": int, "spec": dict, "environment": dict, "required": list, "runners": list,
    "cases": list, "results": list, "localisations": list, "trajectories": list, "power": list, "replay": str,
}  # fmt: skip
_ROWS = {"runners": ("name", "state"), "results": ("runner", "verdict"), "localisations": ("line",)}


def as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `Report.write` wrote, as JSON's types.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no whole report.
    """
    data = Path(path).read_bytes()
    with parsing(lambda reason: ValueError(f"{os.fspath(path)} must be a report of run --json: {reason}")):
        return check_content(parse_json(data))


def check_content(content: Any) -> dict[str, Any]:
    """Return the content of a file if it is a whole report; else raise ValueError, naming what the content lacks."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        schema = content.get("schema") if isinstance(content, dict) else None
        raise ValueError(f"schema {schema!r}, expected {SCHEMA}")
    for name, kind in _FIELDS.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{name} is {content.get(name)!r}, expected a {kind.__name__}")
    for name, texts in _ROWS.items():
        for row in content[name]:
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in texts):
                raise ValueError(f"a row of {name} lacks {' or '.join(texts)}")
    for part in (content, *content["localisations"]):
        part["replay"] = without_trust(part.get("replay", ""))
        if not is_replay_command(part["replay"]):
            raise ValueError(f"replay is {part['replay']!r}, expected `eca-multi parity replay FOLDER`")
    return content


def finite(value: Any) -> Any:
    """Return a value with None in the place of NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
