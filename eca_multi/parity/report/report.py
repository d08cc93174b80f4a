"""The report of a run, as data."""

import math
import os
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from eca_multi import __version__
from eca_multi._files.file import write_atomically
from eca_multi._printable import PrintableError, printable
from eca_multi.parity.define.runners import REFERENCE
from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.explain.localize import Localisation
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.compare import Judgement, Verdict
from eca_multi.parity.judge.drift import Trajectory
from eca_multi.parity.judge.power import Power
from eca_multi.parity.judge.sight import Sight

from .json import SCHEMA, as_json, finite
from .view import View
from .view.results import read_result

AGREE, DISAGREE, WRONG_USAGE, CRASHED, INCONCLUSIVE = range(5)  # exit statuses


class ParityError(PrintableError, AssertionError):
    """An implementation does not agree with the reference."""


@dataclass
class Report:
    """The results of a parity run.

    Attributes:
        spec: Name, source, layout, reference, kind of budget and c.
        runners: The state of every runner that was asked for, and of the reference where it has died.
        cells: A judgement for each runner, case, dtype, check and tensor.
        required: Names of runners that must have run.
        environment: Python, platform and processor.
        cases: Name and reason of each case.
        localisations, trajectories, power, sight: See their classes.
        replay: The command that runs a failure again.
        strict: Whether a framework's rounding counts as a disagreement.
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
    sight: list[Sight] = field(default_factory=list)
    replay: str = ""
    strict: bool = False

    @property
    def compared(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.green or cell.verdict.disagrees or cell.verdict is Verdict.ROUNDING]

    @property
    def failures(self) -> list[Cell]:
        """The cells that are not green, without those that an adapter cannot do and says so."""
        return [cell for cell in self.cells if cell.fails]

    @property
    def disagreements(self) -> list[Cell]:
        """The failures in which something was compared, and differs."""
        return [cell for cell in self.cells if cell.verdict.disagrees]

    @property
    def rounding(self) -> list[Cell]:
        """The cells that are off by the rounding of a framework, and not by a fault of the runner."""
        return [cell for cell in self.cells if cell.verdict is Verdict.ROUNDING]

    @property
    def inconclusive(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.verdict is Verdict.INCONCLUSIVE]

    @property
    def undecided(self) -> list[Cell]:
        """The inconclusive cells that make the run inconclusive: not a tap that was computed, which is on the way to
        results with verdicts of their own."""
        return [cell for cell in self.inconclusive if not cell.is_open_tap]

    @property
    def without_result(self) -> int:
        """The number of tensors that were asked for and not judged, because a process raised or ended."""
        return sum(cell.is_without_result for cell in self.cells) + sum(r.unanswered for r in self.runners)

    @property
    def missing(self) -> list[RunnerState]:
        return [r for r in self.runners if r.name in self.required and r.state == "unavailable"]

    @property
    def ran(self) -> list[str]:
        """Names of the runners that ran; one that raised in every cell did not."""
        raised = {cell.runner for cell in self.cells} - {c.runner for c in self.cells if c.verdict is not Verdict.ERROR}
        return [r.name for r in self.runners if r.state == "ran" and r.name not in {*raised, REFERENCE}]

    @property
    def exit_code(self) -> int:
        """0 all agree; 1 a disagreement, or a required runner is missing; 3 a crash; 4 nothing conclusive.

        The rounding of a framework is a disagreement if `strict`.
        """
        if self.disagreements or self.missing:
            return 1
        if self.strict and self.rounding:
            return 1
        errors = any(cell.verdict is Verdict.ERROR for cell in self.cells)
        if errors or any(r.state in ("crashed", "timed out") for r in self.runners):
            return 3
        return 4 if self.undecided or not self.compared else 0

    def raise_for_status(self) -> None:
        """Raise ParityError if a runner disagrees, or RuntimeError if one crashed or nothing was conclusive."""
        if self.exit_code == 1:
            view = View(self.to_dict())
            lines = [cause.line for cause in view.causes]
            lines += [f"{r.name}: {r.describe()}" for r in view.rounding if self.strict]
            lines += [f"{runner.name}: {runner.detail}" for runner in self.missing]
            lines += [localisation.line for localisation in self.localisations]
            raise ParityError("\n".join(lines))
        if self.exit_code:
            lines = [f"{r.name}: {r.state}: {r.detail}" for r in self.runners if r.state != "ran"]
            text = "\n".join([*lines, *map(describe, self.failures)]) or "nothing was compared"
            raise RuntimeError(printable(text, lines=True))

    def finish(self) -> None:
        """Put the cells in order, and add to each the ratio of its error to that of other runners."""
        groups: dict[tuple[str, ...], list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault((cell.case, cell.dtype, cell.check, cell.tensor), []).append(cell)
        cells = (_beside(cell, group) for group in groups.values() for cell in group)
        self.cells = sorted(cells, key=lambda c: (c.runner, c.dtype, c.case, c.check, c.tensor))

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
            "without_result": self.without_result,
            "spec": self.spec,
            "environment": self.environment,
            "required": sorted(self.required),
            "runners": [finite(asdict(runner)) for runner in self.runners],
            "cases": list(self.cases),
            "results": [_plain(cell, id(cell) in shown) for cell in self.cells],
            "localisations": [finite(asdict(item)) for item in self.localisations],
            "trajectories": [finite(asdict(item)) for item in self.trajectories],
            "power": [finite(asdict(item)) for item in self.power],
            "sight": [finite(asdict(item)) for item in self.sight],
            "replay": self.replay,
            "strict": self.strict,
        }

    def to_json(self) -> str:
        """Return the report as JSON: the same bytes for the same results."""
        return as_json(self.to_dict())

    def _pictured(self) -> list[Cell]:
        """Return the cells whose profile a picture shows: the worst of each runner, dtype and check."""
        worst: dict[tuple[str, ...], Cell] = {}
        for cell in self.cells:
            key = (cell.runner, cell.dtype, cell.check)
            if cell.judgement.profile and (key not in worst or _severity(cell) > _severity(worst[key])):
                worst[key] = cell
        return list(worst.values())


def describe(cell: Cell) -> str:
    """Say in one line what disagrees, where and by how much."""
    result = read_result(_plain(cell, with_profile=False))
    return f"{result.name}: {result.describe()}"


def status_of_comparison(judgements: Collection[Judgement]) -> int:
    """Return the status of `compare`: no tensors, or a tensor without a verdict, are inconclusive."""
    verdicts = [judgement.verdict for judgement in judgements]
    if any(verdict.disagrees for verdict in verdicts):
        return DISAGREE
    return AGREE if verdicts and all(verdict.green for verdict in verdicts) else INCONCLUSIVE


def status_of_power(report: Report) -> int:
    """Return the status of `power`: a case that kills no mutant is inconclusive."""
    if report.exit_code == CRASHED:  # the reference or the worker of the mutants
        return CRASHED
    return AGREE if report.power and all(power.killed for power in report.power) else INCONCLUSIVE


def status_of_runners(states: Iterable[RunnerState]) -> int:
    """Return the status of `fingerprint`: a runner that is not installed is no fault."""
    return CRASHED if any(state.state in ("crashed", "timed out") for state in states) else AGREE


def _severity(cell: Cell) -> tuple[bool, float]:
    use = cell.judgement.budget_use
    return cell.fails, (math.inf if cell.fails else -1.0) if use is None else use


def _beside(cell: Cell, group: list[Cell]) -> Cell:
    """Add the ratio of this runner's largest error to the median of the others'."""
    errors = [c.judgement.metrics.get("max_abs") for c in group if c.runner != cell.runner]
    others = [other for other in errors if other is not None]
    error = cell.judgement.metrics.get("max_abs")
    if error is None or not others or median(others) == 0:
        return cell
    metrics = {**cell.judgement.metrics, "peer_ratio": error / median(others)}
    return replace(cell, judgement=replace(cell.judgement, metrics=metrics))


def _plain(cell: Cell, with_profile: bool) -> dict[str, Any]:
    judgement = cell.judgement
    fields = {**vars(cell), **vars(judgement)}
    content = {name: fields[name] for name in fields if name not in ("judgement", "metrics", "profile", "hint")}
    content |= judgement.metrics | ({"profile": judgement.profile} if with_profile else {})
    cleaned: dict[str, Any] = finite(content)
    return cleaned
