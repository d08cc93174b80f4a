"""The steps that the examinations share: the plan, and one step with its control on the plain network."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from eca_multi.surgery.entry import Skipped
from eca_multi.surgery.errors import NoSiteError
from eca_multi.surgery.plan import ECAPlan

Step = Callable[[], Any]
FALLBACKS = ("conv_norm", "conv", "norm")  # for a network without a residual branch


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


def planned(plan_eca: Callable[[Any], ECAPlan], found: dict[str, Any]) -> tuple[ECAPlan | None, Sequence[Skipped]]:
    """Return the plan for residual branches, or for some other sites where there are none; and what was skipped.

    Args:
        plan_eca: The framework's function, bound to the network: takes `where`.
        found: Receives where the sites are, the order that the network keeps, or what was raised.
    """
    skipped: Sequence[Skipped] = ()
    for where in ("residual", *FALLBACKS):
        try:
            plan = plan_eca(where)
            if where == "residual":
                skipped = plan.skipped
            else:
                plan = plan_eca(list(plan.paths[:: len(plan.paths) // 8 + 1]))
        except NoSiteError as error:
            if where == "residual":
                found["refused"], skipped = str(error), getattr(error, "skipped", ())
            continue
        except Exception as error:  # whatever the package raises is a result
            found["plan"] = {"ok": False, "note": f"{type(error).__name__}: {error}"[:600]}
            return None, skipped
        found["where"] = where
        if plan.evidence:  # a codec, a language model: what ECA does there is examined all the same
            found["order"] = sorted({f"{shown.how}: {shown.source}" for shown in plan.evidence})
            plan = replace(plan, keep_causality=False)
        return plan, skipped
    return None, skipped


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
