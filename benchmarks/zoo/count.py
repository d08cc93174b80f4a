"""Which residual adds of a network have a site, and which have a reason in the plan instead."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.zoo.flow import Add


def counted(plain: Sequence[Add], gated: Sequence[Add], skipped: Iterable[Any]) -> dict[str, Any]:
    """Return the adds that are gated, and the others with the plan's reason or without one.

    Args:
        plain: The adds of the network as it was.
        gated: Those of the network with ECA, in the same order.
        skipped: What the plan says about places that were not taken.
    """
    if len(gated) != len(plain):
        return {"gated": 0, "reasoned": 0, "left": [], "recount": len(gated)}
    reasons = [(skip.path, skip.reason) for skip in skipped]
    left = [{"place": add.place, "shape": add.shape, "reason": _reason(add, reasons)} for add in gated if not add.ecas]
    taken = len(gated) - len(left)
    return {"gated": taken, "reasoned": sum(bool(item["reason"]) for item in left), "left": _merged(left)}


def _reason(add: Add, reasons: Sequence[tuple[str, str]]) -> str:
    """The reason of the module in which the add runs, or of a place directly inside."""
    near = [(path, reason) for path, reason in reasons if _is_at(path, add.place)]
    return min(near, key=lambda pair: len(pair[0]))[1] if near else ""


def _is_at(path: str, place: str) -> bool:
    return path == place or not place or path.startswith((f"{place}.", f"{place}/"))


def _merged(left: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict(item, shape=list(item["shape"])) for item in left]
