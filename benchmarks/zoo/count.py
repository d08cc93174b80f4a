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
    left = [
        {"place": add.place, "shape": list(add.shape), "reason": _taken(reasons, add.place)}
        for add in gated
        if not add.ecas
    ]
    return {"gated": len(gated) - len(left), "reasoned": sum(bool(item["reason"]) for item in left), "left": left}


def _taken(reasons: list[tuple[str, str]], place: str) -> str:
    """Return the reason for an add in a module: the plan's words on that module, or on a place inside.

    What the plan says of a place inside holds for one add and is taken out of the list.
    """
    for path, reason in reasons:
        if path == place:
            return reason
    inside = [pair for pair in reasons if not place or pair[0].startswith((f"{place}.", f"{place}/"))]
    if not inside:
        return ""
    nearest = min(inside, key=lambda pair: len(pair[0]))
    reasons.remove(nearest)
    return nearest[1]
