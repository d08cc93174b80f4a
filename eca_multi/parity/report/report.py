"""The outcome of a run, as data."""

import json
import math
import os
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from eca_multi import __version__
from eca_multi._files.file import write_atomically
from eca_multi._parsing import parse_json, parsing
from eca_multi._printable import PrintableError, printable
from eca_multi.parity.judge.compare import Judgement, Verdict

SCHEMA = 2
REFERENCE = "reference"  # no runner has this name


@dataclass(frozen=True)
class Cell:
    """One tensor of one case in one dtype by one runner, in one check. `reason` says why where nothing was compared."""

    runner: str
    case: str
    dtype: str
    check: str
    tensor: str
    judgement: Judgement
    budget: str = ""
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict

    @property
    def green(self) -> bool:
        return self.verdict.green


@dataclass
class RunnerState:
    """`state` is "ran", "unavailable", "crashed" or "timed out"; `detail` says why, and what to do."""

    name: str
    state: str = "ran"
    detail: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Localisation:
    """Where a failure begins: the chain of taps, each judged as propagated and in isolation.

    `line` says it in one line, or why it is not known; `shrunk` holds the sizes of the smallest case that still fails,
    `bundle` its folder and `replay` the command that runs it again.
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


@dataclass(frozen=True)
class Trajectory:
    """Free-running drift max |w - reference| over all weights at some steps, and the band of perturbed references."""

    runner: str
    case: str
    dtype: str
    optimizer: str
    steps: tuple[int, ...]
    drift: tuple[float, ...]
    band: tuple[float, ...]
    one_step: tuple[float, ...]


@dataclass(frozen=True)
class Power:
    """Which mutants a case kills: those whose verdict is not green, in any tensor."""

    case: str
    dtype: str
    killed: tuple[str, ...]
    survived: tuple[str, ...]
    not_applicable: tuple[str, ...] = ()


class ParityError(PrintableError, AssertionError):
    """An implementation does not agree with the reference."""


@dataclass
class Report:
    """What a parity run found.

    Attributes:
        spec: Name, source, layout, reference, kind of budget and c.
        runners: The state of every runner that was asked for, and of the reference where it has died.
        cells: A judgement for each runner, case, dtype, check and tensor.
        required: Names of runners that must have run.
        environment: Python, platform and processor.
        cases: Name and reason of each case.
        localisations, trajectories, power: See their classes.
        replay: The command that runs a failure again.
    """

    runners: list[RunnerState]
    cells: list[Cell] = field(default_factory=list)
    required: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    cases: tuple[dict[str, str], ...] = ()
    localisations: list[Localisation] = field(default_factory=list)
    trajectories: list[Trajectory] = field(default_factory=list)
    power: list[Power] = field(default_factory=list)
    replay: str = ""

    @property
    def compared(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.green or cell.verdict.disagrees]

    @property
    def failures(self) -> list[Cell]:
        """What is not green, but for what cannot be done and says so."""
        return [cell for cell in self.cells if not cell.green and cell.verdict is not Verdict.UNSUPPORTED]

    @property
    def disagreements(self) -> list[Cell]:
        """The failures that are no exceptions."""
        return [cell for cell in self.cells if cell.verdict.disagrees]

    @property
    def inconclusive(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.verdict is Verdict.INCONCLUSIVE]

    @property
    def missing(self) -> list[RunnerState]:
        """The required runners that could not run."""
        return [r for r in self.runners if r.name in self.required and r.state == "unavailable"]

    @property
    def ran(self) -> list[str]:
        """Names of the runners that ran: not of one that raised wherever it was asked."""
        raised = {cell.runner for cell in self.cells} - {c.runner for c in self.cells if c.verdict is not Verdict.ERROR}
        return [runner.name for runner in self.asked if runner.state == "ran" and runner.name not in raised]

    @property
    def asked(self) -> list[RunnerState]:
        """The runners; `runners` has the reference too, where it has died."""
        return [runner for runner in self.runners if runner.name != REFERENCE]

    @property
    def exit_code(self) -> int:
        """0 all agree; 1 a disagreement, or a required runner is missing; 3 a crash; 4 nothing conclusive."""
        if self.disagreements or self.missing:
            return 1
        errors = any(cell.verdict is Verdict.ERROR for cell in self.cells)
        if errors or any(r.state in ("crashed", "timed out") for r in self.runners):
            return 3
        return 4 if self.inconclusive or not self.compared else 0

    def worst(self, runner: str, dtype: str, checks: Iterable[str] = ()) -> Cell | None:
        """The cell of the largest budget use, a failure first; None where there is none."""
        wanted = set(checks)
        cells = [c for c in self.cells if (c.runner, c.dtype) == (runner, dtype) and (not wanted or c.check in wanted)]
        return max(cells, key=_severity, default=None)

    def raise_for_status(self) -> None:
        """Raise ParityError if a runner disagrees, or RuntimeError if one crashed or nothing was conclusive."""
        if self.exit_code == 1:
            lines = [describe(cell) for cell in self.failures]
            lines += [f"{runner.name}: {runner.detail}" for runner in self.missing]
            lines += [found.line for found in self.localisations]
            raise ParityError("\n".join(lines))
        if self.exit_code:
            lines = [f"{r.name}: {r.state}: {r.detail}" for r in self.runners if r.state != "ran"]
            text = "\n".join([*lines, *map(describe, self.failures)]) or "nothing was compared"
            raise RuntimeError(printable(text, lines=True))

    def finish(self) -> None:
        """Put the cells in order, and add to each how it compares with its peers' errors."""
        groups: dict[tuple[str, ...], list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault((cell.case, cell.dtype, cell.check, cell.tensor), []).append(cell)
        self.cells = sorted((_beside(c, g) for g in groups.values() for c in g), key=_order)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file, whole or not at all."""
        write_atomically(path, self.to_json().encode())

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON's types; docs/parity.md lists the fields."""
        shown = {id(cell) for cell in self._pictured()}
        return {
            "schema": SCHEMA,
            "tool": f"eca-multi {__version__}",
            "exit_code": self.exit_code,
            "spec": self.spec,
            "environment": self.environment,
            "required": sorted(self.required),
            "runners": [_clean(asdict(runner)) for runner in self.runners],
            "cases": list(self.cases),
            "results": [_plain(cell, id(cell) in shown) for cell in self.cells],
            "localisations": [_clean(asdict(item)) for item in self.localisations],
            "trajectories": [_clean(asdict(item)) for item in self.trajectories],
            "power": [_clean(asdict(item)) for item in self.power],
            "replay": self.replay,
        }

    def to_json(self) -> str:
        """Return the report as JSON: the same bytes for the same results."""
        return as_json(self.to_dict())

    def _pictured(self) -> list[Cell]:
        """The cells whose profile a picture may want: the worst of each runner, dtype and check."""
        worst: dict[tuple[str, ...], Cell] = {}
        for cell in self.cells:
            key = (cell.runner, cell.dtype, cell.check)
            if cell.judgement.profile and (key not in worst or _severity(cell) > _severity(worst[key])):
                worst[key] = cell
        return list(worst.values())


# Of a report in JSON: the type of each field, and the texts in the rows that are always read.
_FIELDS = {
    "exit_code": int, "spec": dict, "environment": dict, "required": list, "runners": list, "cases": list,
    "results": list, "localisations": list, "trajectories": list, "power": list, "replay": str,
}  # fmt: skip
_REPLAY = ["eca-multi", "parity", "replay"]
_ROWS = {"runners": ("name", "state"), "results": ("runner", "verdict"), "localisations": ("line",)}


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `Report.write` wrote, as JSON's types.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no whole report.
    """
    data = Path(path).read_bytes()
    with parsing(lambda reason: ValueError(f"{os.fspath(path)} must be a report of run --json: {reason}")):
        return check_content(parse_json(data))


def check_content(content: Any) -> dict[str, Any]:
    """Return what was read from a file, if it is a whole report.

    Raises:
        ValueError: Naming what it lacks.
    """
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        schema = content.get("schema") if isinstance(content, dict) else None
        raise ValueError(f"schema {schema!r}, expected {SCHEMA}")
    for name, kind in _FIELDS.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{name} is {content.get(name)!r}, expected a {kind.__name__}")
    for name, texts in _ROWS.items():
        for row in content[name]:
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in texts):
                raise ValueError(f"a row of {name} lacks {' or '.join(texts)}")
    for command in (content["replay"], *(row.get("replay", "") for row in content["localisations"])):
        if not _is_replay(command):
            raise ValueError(f"replay is {command!r}, expected `eca-multi parity replay FOLDER`")
    return content


def replay_command(folder: str) -> str:
    """Return the command that runs a bundle again, for a shell."""
    return shlex.join([*_REPLAY, f"./{folder}" if folder.startswith("-") else folder])


def _is_replay(command: Any) -> bool:
    """Whether a command is one of ours: it is shown to be copied, and a report may come from anybody."""
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:  # a quote that is not closed
        words = []
    return command == "" or (words[:-1] == _REPLAY and words[-1][:1] != "-" and command == shlex.join(words))


def as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def describe(cell: Cell) -> str:
    """One line that says what disagrees, where and by how much."""
    j = cell.judgement
    check = "" if cell.check in ("forward", "input_grad", "weight_grad") else f" {cell.check}"
    head = f"{cell.runner} {cell.dtype} {cell.case}{check} {cell.tensor}: {j.verdict}"
    if cell.reason and cell.verdict is not Verdict.EXCEEDS_BUDGET:
        return f"{head}: {cell.reason.strip().splitlines()[-1]}"
    tail = f"expected {j.expected}, received {j.received}" + (f" ({cell.reason})" if cell.reason else "")
    if j.budget_use is not None:
        return f"{head}, {j.budget_use:.3g} x the budget at {list(j.index)}: {tail}"
    return f"{head}{f' at {list(j.index)}' if j.index else ''}: {tail}"


def _severity(cell: Cell) -> tuple[bool, float]:
    use = cell.judgement.budget_use
    bad = not cell.green and cell.verdict is not Verdict.UNSUPPORTED
    return bad, (math.inf if bad else -1.0) if use is None else use


def _order(cell: Cell) -> tuple[str, ...]:
    return (cell.runner, cell.dtype, cell.case, cell.check, cell.tensor)


def _beside(cell: Cell, group: list[Cell]) -> Cell:
    """Add the ratio of this runner's largest error to the median of the others'."""
    errors = [c.judgement.metrics.get("max_abs") for c in group if c.runner != cell.runner]
    others = [error for error in errors if error is not None]
    own = cell.judgement.metrics.get("max_abs")
    if own is None or not others or median(others) == 0:
        return cell
    metrics = {**cell.judgement.metrics, "peer_ratio": own / median(others)}
    return replace(cell, judgement=replace(cell.judgement, metrics=metrics))


def _plain(cell: Cell, with_profile: bool) -> dict[str, Any]:
    content = {k: v for k, v in asdict(replace(cell, judgement=Judgement(cell.verdict))).items() if k != "judgement"}
    j = cell.judgement
    content |= {"verdict": j.verdict, "budget_use": j.budget_use, "index": j.index}
    content |= {"expected": j.expected, "received": j.received, **j.metrics}
    if with_profile:
        content["profile"] = j.profile
    cleaned: dict[str, Any] = _clean(content)
    return cleaned


def _clean(value: Any) -> Any:
    """JSON has no infinity: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, (list, tuple)) else value
