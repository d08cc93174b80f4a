"""A plan on another network of the same architecture: its candidates at the plan's paths, the entries to carry out."""

from collections.abc import Callable, Iterable, Mapping

from .candidate import HAS_ECA, Candidate
from .entry import ECAEntry
from .errors import PlanMismatchError
from .plan import ECAPlan

# What a framework has to look for, and what to say of a path where that is not.
KIND_OF_ACTION = {"after": "any", "before_add": "residual", "replace": "se", "fill": "slot"}
MISSING = {"residual": "has no residual add behind it", "se": "is no SE block", "slot": "is no empty slot"}


def candidates_at(plan: ECAPlan, find: Callable[[str], Iterable[Candidate]]) -> dict[str, Candidate]:
    """Return what the network has at each path of the plan; a path that the network lacks is left out.

    `find` returns the network's candidates of one kind of `where`, or all for "any".
    """
    kinds = dict.fromkeys(("any", *(KIND_OF_ACTION[entry.action] for entry in plan.entries)))
    of_kind = {kind: _by_name(find(kind)) for kind in kinds}
    at_path: dict[str, Candidate] = {}
    for entry in plan.entries:
        kind = KIND_OF_ACTION[entry.action]
        if entry.path in of_kind[kind]:
            at_path[entry.path] = of_kind[kind][entry.path]
        elif entry.path in of_kind["any"]:
            at_path[entry.path] = Candidate(entry.path, reason=MISSING[kind])
    return at_path


def replay(plan: ECAPlan, framework: str, at_path: Mapping[str, Candidate]) -> list[ECAEntry]:
    """Return the entries of a plan that are still to be carried out on a network.

    `at_path` is what `candidates_at` returns; a candidate whose `reason` is HAS_ECA needs nothing more.

    Raises:
        PlanMismatchError: With every difference.
    """
    differences = []
    if plan.framework != framework:
        differences.append(f"framework is {framework}, the plan's {plan.framework}")
    paths = [entry.path for entry in plan.entries]
    differences += [f"{path}: stands in the plan twice" for path in dict.fromkeys(paths) if paths.count(path) > 1]
    for entry in plan.entries:
        candidate = at_path.get(entry.path)
        texts = ["is not there"] if candidate is None else _differences(entry, candidate)
        differences += [f"{entry.path}: {text}" for text in texts]
    if differences:
        raise PlanMismatchError(
            f"plan must fit the model. Received: {len(differences)} differences: {'; '.join(differences)}. "
            "Plan this model anew with plan_eca."
        )
    return [entry for entry in plan.entries if at_path[entry.path].reason != HAS_ECA]


def _differences(entry: ECAEntry, candidate: Candidate) -> list[str]:
    texts = []
    if entry.module_type and candidate.module_type and entry.module_type != candidate.module_type:
        texts.append(f"is a {candidate.module_type}, the plan's a {entry.module_type}")
    if entry.channels and candidate.channels is not None and entry.channels != candidate.channels:
        texts.append(f"has {candidate.channels} channels, the plan's {entry.channels}")
    if candidate.reason not in ("", HAS_ECA):
        texts.append(candidate.reason)
    return texts


def _by_name(candidates: Iterable[Candidate]) -> dict[str, Candidate]:
    return {name: candidate for candidate in candidates for name in candidate.names}
