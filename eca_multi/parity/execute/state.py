"""How the process of a runner ended."""

from dataclasses import dataclass, field
from typing import Any

from eca_multi.parity.define.runners import Runner


@dataclass
class RunnerState:
    """What became of one runner in a run.

    Attributes:
        state: "ran", "unavailable", "crashed" or "timed out".
        detail: Why, and the remedy.
        versions: The packages that its process imported.
        fingerprint: How its framework computes here; empty where nothing was measured.
        unanswered: The number of tensors that it was asked for and never gave, because its process ended.
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
