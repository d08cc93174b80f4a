"""The table of checks: the one list of the comparisons of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from .runners import UsageError


@dataclass(frozen=True)
class Check:
    """One kind of comparison."""

    name: str
    compares: str  # one line for reports
    is_default: bool = False  # whether a run does this check when the caller names none
    is_base: bool = False  # whether one plain evaluation gives all results that the check needs
    of_cases: bool = False  # whether the check measures the cases, and not a runner


# In the order in which reports show them.
TABLE = (
    Check("forward", "outputs, and states after the call", is_default=True, is_base=True),
    Check("input_grad", "gradients of sum(cotangent * output) by the inputs", is_default=True, is_base=True),
    Check("weight_grad", "the same by the weights", is_default=True, is_base=True),
    Check("compiled", "outputs and gradients of the compiled layer", is_default=True),
    Check("mixed", "outputs and gradients of float32 parameters with half-precision inputs"),
    Check("roundtrip", "weights after the framework's own file format, bit for bit"),
    Check("trajectory", "one training step from each of the reference's points"),
    Check("determinism", "a repetition, bit for bit"),
    Check("nonfinite", "outputs for an input with one NaN, and with one infinity"),
    Check("taps", "every intermediate value and its gradient"),
    Check("power", "the cases: how many seeded mutants each one kills", of_cases=True),
)
CHECKS = tuple(check.name for check in TABLE)
DEFAULT_CHECKS = tuple(check.name for check in TABLE if check.is_default)
BASE = tuple(check.name for check in TABLE if check.is_base)
TESTED = tuple(check.name for check in TABLE if not check.of_cases)  # a test of one runner can ask for these


def check_names(what: str, names: Sequence[str] | str | None, known: Sequence[str]) -> list[str]:
    """Return the chosen names in the order of the known ones; None takes all.

    Raises:
        UsageError: If a name is not known.
    """
    names = [names] if isinstance(names, str) else names
    for name in names or ():
        if name not in known:
            raise UsageError(f"{what} must be one of {', '.join(known)}. Received: {name!r}.")
    return [name for name in known if names is None or name in names]
