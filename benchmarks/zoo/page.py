"""The page: which networks were examined, what was found, and the figures in its head."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

STEPS = {
    "equal": "bit-equal", "train": "trainable", "undo": "undone", "names": "names kept", "intersect": "transferred",
    "reload": "reloaded", "rebuilt": "rebuilt", "export": "exported",
}  # fmt: skip
Record = dict[str, Any]


def faults(record: Record) -> list[str]:
    """What is wrong with the package in this network, in words; nothing where the plain network fails in the same way."""
    if "broken" in record:
        return []
    wrong = [f"{step}: {record[step]['note']}" for step in ("plan", "insert", "acts", *STEPS) if _failed(record, step)]
    left = record.get("adds", 0) - record.get("gated", 0) - record.get("reasoned", 0)
    return wrong + ([f"{left} of {record['adds']} adds without a site or a reason"] if left > 0 else [])


def write_page(records: Sequence[Record], path: Path) -> None:
    pass


def _failed(record: Record, step: str) -> bool:
    return step in record and not record[step]["ok"] and "own" not in record[step]
