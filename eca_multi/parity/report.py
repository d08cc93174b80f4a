"""The outcome of a run, as data."""

import json
import math
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from eca_multi import __version__
from eca_multi._files import write_atomically

from .budget import SAFETY
from .compare import Judgement, Verdict

SCHEMA = 1


@dataclass(frozen=True)
class Cell:
    """One tensor of one case in one dtype by one runner. `error` is the text where the job raised."""

    runner: str
    case: str
    dtype: str
    tensor: str
    judgement: Judgement
    error: str = ""

    @property
    def green(self) -> bool:
        return self.judgement.verdict.green


@dataclass
class RunnerState:
    """`state` is "ran", "unavailable", "crashed" or "timed out"; `detail` says why, and what to do."""

    name: str
    state: str = "ran"
    detail: str = ""
    versions: dict[str, str] = field(default_factory=dict)


class ParityError(AssertionError):
    """An implementation does not agree with the oracle."""


@dataclass
class Report:
    """What a parity run found.

    Attributes:
        runners: The state of every runner that was asked for.
        cells: A judgement for each runner, case, dtype and tensor that was compared.
        required: Names of runners that must have run.
        environment: Python, platform and processor.
    """

    runners: list[RunnerState]
    cells: list[Cell]
    required: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def failures(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.green]

    @property
    def disagreements(self) -> list[Cell]:
        """The failures that are no exceptions."""
        return [cell for cell in self.failures if cell.judgement.verdict is not Verdict.ERROR]

    @property
    def missing(self) -> list[RunnerState]:
        """The required runners that could not run."""
        return [r for r in self.runners if r.name in self.required and r.state == "unavailable"]

    @property
    def exit_code(self) -> int:
        """0 all agree; 1 a disagreement, or a required runner is missing; 3 a crash; 4 nothing was compared."""
        if self.disagreements or self.missing:
            return 1
        if self.failures or any(r.state in ("crashed", "timed out") for r in self.runners):
            return 3
        return 0 if self.cells else 4

    def worst(self, runner: str, dtype: str) -> Cell | None:
        """The cell of the largest budget use, an error first; None where nothing was compared."""
        cells = [c for c in self.cells if (c.runner, c.dtype) == (runner, dtype)]
        return max(cells, key=lambda c: (not c.green, c.judgement.budget_use), default=None)

    def raise_for_status(self) -> None:
        """Raise ParityError if a runner disagrees, or RuntimeError if one crashed or nothing was compared."""
        if self.exit_code == 1:
            lines = [describe(cell) for cell in self.failures]
            lines += [f"{runner.name}: {runner.detail}" for runner in self.missing]
            raise ParityError("\n".join(lines))
        if self.exit_code:
            lines = [f"{r.name}: {r.state}: {r.detail}" for r in self.runners if r.state != "ran"]
            raise RuntimeError("\n".join([*lines, *map(describe, self.failures)]) or "nothing was compared")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file, whole or not at all."""
        write_atomically(path, self.to_json().encode())

    def to_json(self) -> str:
        """Return the report as JSON: the same bytes for the same results."""
        content = {
            "schema": SCHEMA,
            "tool": f"eca-multi {__version__}",
            "exit_code": self.exit_code,
            "c": SAFETY,
            "environment": self.environment,
            "required": sorted(self.required),
            "runners": [asdict(runner) for runner in self.runners],
            "results": [_plain(cell) for cell in sorted(self.cells, key=_order)],
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def describe(cell: Cell) -> str:
    """One line that says what disagrees, where and by how much."""
    j = cell.judgement
    head = f"{cell.runner} {cell.dtype} {cell.case} {cell.tensor}: {j.verdict}"
    if j.verdict is Verdict.ERROR:
        return f"{head}: {cell.error.strip().splitlines()[-1]}"
    tail = f"expected {j.expected}, received {j.received}"
    if math.isfinite(j.budget_use):
        return f"{head}, {j.budget_use:.3g} x the budget at {list(j.index)}: {tail}"
    return f"{head}{f' at {list(j.index)}' if j.index else ''}: {tail}"


def _order(cell: Cell) -> tuple[str, ...]:
    return (cell.runner, cell.dtype, cell.case, cell.tensor)


def _plain(cell: Cell) -> dict[str, Any]:
    judgement = {k: _finite(v) for k, v in asdict(cell.judgement).items()}
    content = {**_without(asdict(cell), "judgement"), **judgement}
    return content if cell.error else _without(content, "error")


def _without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
