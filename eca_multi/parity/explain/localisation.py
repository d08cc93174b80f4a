"""The answer of an explanation: where a failure begins, how small a case still shows it, and how to run that again."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Localisation:
    """Where the first failure of a runner in a dtype begins.

    Attributes:
        line: The answer in one line, or why it is not known.
        culprit: The first stage that fails in isolation.
        explanation: The fact of the runner's fingerprint that explains it, "" where there is none.
        chain: The stages, each judged as it came and in isolation.
        shrunk: The sizes of the smallest case that still fails.
        bundle, replay: The folder of the bundle, and the command that runs it again.
    """

    runner: str
    case: str
    dtype: str
    line: str
    culprit: str | None = None
    explanation: str = ""
    chain: tuple[dict[str, Any], ...] = ()
    shrunk: dict[str, int] = field(default_factory=dict)
    bundle: str = ""
    replay: str = ""
