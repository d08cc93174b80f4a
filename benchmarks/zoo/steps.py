"""One step of the examination of a network, with its control: the same step on the plain network."""

import time
from collections.abc import Callable
from typing import Any

Step = Callable[[], Any]


class Failed(Exception):
    """A step found what must not be."""


def judged(step: Step, control: Step | None = None) -> dict[str, Any]:
    """Run a step; where it fails, the control tells whether the plain network fails in the same way.

    Returns:
        ok, seconds; where the step failed, note: what was found; and own: what the plain network does in that step.
    """
    start = time.perf_counter()
    note = _failure(step)
    result: dict[str, Any] = {"ok": not note}
    if note:
        result["note"] = note
        own = _failure(control) if control is not None else ""
        if own:
            result["own"] = own
    return result | {"seconds": round(time.perf_counter() - start, 2)}


def must(holds: bool, text: str) -> None:
    if not holds:
        raise Failed(text)


def _failure(step: Step) -> str:
    try:
        step()
    except Failed as error:
        return f"{error}"[:600]
    except Exception as error:  # whatever a network of a package raises is a result
        return f"{type(error).__name__}: {error}"[:600]
    return ""


def listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
