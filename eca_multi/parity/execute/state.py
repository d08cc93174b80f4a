"""The state of a runner in a run."""

from dataclasses import dataclass, field
from typing import Any

from eca_multi.parity.define.runners import Runner


@dataclass
class RunnerState:
    """The state of one runner: "ran", "unavailable", "crashed" or "timed out"."""

    name: str
    state: str = "ran"
    detail: str = ""  # the reason, and the remedy
    versions: dict[str, str] = field(default_factory=dict)  # of the packages that its process imported
    fingerprint: dict[str, Any] = field(default_factory=dict)  # how its framework computes here; empty if not measured
    unanswered: int = 0  # the number of tensors that its process owed when it ended


def state_of(runner: Runner) -> RunnerState:
    """Return the state of a runner before its start: "unavailable" where it cannot run here."""
    reason = runner.unavailable()
    return RunnerState(runner.name) if reason is None else RunnerState(runner.name, "unavailable", reason)
