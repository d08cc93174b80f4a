"""The state of a runner in a run."""

from dataclasses import dataclass, field
from typing import Any

from eca_multi.parity.define.runners import Runner


@dataclass
class RunnerState:
    """The state of one runner.

    Attributes:
        state: "ran", "unavailable", "crashed" or "timed out".
        detail: The reason, and the remedy.
        versions: Those of the packages that its process imported.
        fingerprint: How its framework computes on this machine; empty where no one measured it.
        unanswered: The number of tensors that its process owed when it ended.
    """

    name: str
    state: str = "ran"
    detail: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    unanswered: int = 0


def state_of(runner: Runner) -> RunnerState:
    """Return the state of a runner before its start: "unavailable" where it cannot run here."""
    reason = runner.unavailable()
    return RunnerState(runner.name) if reason is None else RunnerState(runner.name, "unavailable", reason)
