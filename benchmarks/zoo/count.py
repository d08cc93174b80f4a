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
    reasons = list(skipped)
    bare = [add for add in gated if not add.ecas]
    # What the plan says of a place inside belongs to the innermost module, which is asked first.
    inner = sorted(range(len(bare)), key=lambda i: -len(bare[i].place))
    found = {i: _taken(reasons, bare[i]) for i in inner}
    left = [
        {"place": add.place, "line": add.line, "shape": list(add.shape), "reason": found[i]}
        for i, add in enumerate(bare)
    ]
    return {"gated": len(gated) - len(left), "reasoned": sum(bool(item["reason"]) for item in left), "left": left}


def _taken(reasons: list[Any], add: Add) -> str:
    """Return the plan's words on an add: on its line of code where both know it, else on its module or a place inside.

    What the plan says of a place inside without a line holds for one add and is taken out of the list.
    """
    for skip in reasons:
        if skip.line and skip.line == add.line and (_holds(skip.path, add.place) or _holds(add.place, skip.path)):
            return skip.reason
    others = [skip for skip in reasons if not skip.line or not add.line]
    for skip in others:
        if skip.path == add.place:
            return skip.reason
    inside = [skip for skip in others if _holds(add.place, skip.path)]
    if not inside:
        # Of a layer that could not be read the plan says so once, for every add inside.
        whole = [skip for skip in reasons if not add.line and skip.path and _holds(skip.path, add.place)]
        return whole[0].reason if whole else ""
    nearest = min(inside, key=lambda skip: len(skip.path))
    reasons.remove(nearest)
    return nearest.reason


def _holds(above: str, path: str) -> bool:
    return not above or path == above or path.startswith((f"{above}.", f"{above}/"))
