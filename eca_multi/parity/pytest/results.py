"""The runs behind a session's tests: made when a first test needs one, kept for the others, joined into reports."""

import fcntl
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eca_multi._errors import NotInstalled
from eca_multi._files.file import write_atomically
from eca_multi._printable import file_name
from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.drift import Trajectory
from eca_multi.parity.report import FORMATS
from eca_multi.parity.report.report import Report

from .marks import ParityCase, blocks, is_named


@dataclass
class Run:
    """One call of `parity.run` for some cells of a runner: its report, or its error."""

    number: int
    cells: list[ParityCase]
    report: Report | None = None
    error: Exception | None = None


@dataclass
class Results:
    """The runs of a session, or of a worker of pytest-xdist.

    Attributes:
        required: Runners whose absence is a failure; "all" means all runners.
        folder: The workers of pytest-xdist share reports there, so that one worker makes each run; None without xdist.
        known: The runners that the marks ask for.
        strict: Whether the rounding of a framework fails a test.
    """

    required: tuple[str, ...] = ()
    folder: Path | None = None
    known: dict[str, None] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    strict: bool = False
    _runs: dict[tuple[int, ParityCase], Run] = field(default_factory=dict)

    def requires(self, runner: str) -> bool:
        return "all" in self.required or is_named(runner, self.required)

    def select(self, cells: Iterable[ParityCase]) -> None:
        """Group the cells of the session's tests: cells of one specification and runner share a run."""
        number = 0  # of a run; the same in every worker, because all collect the same tests in the same order
        groups: dict[tuple[int, str], list[ParityCase]] = {}
        for cell in cells:
            groups.setdefault((id(cell.spec), cell.argument), []).append(cell)
        for group in groups.values():
            by_place = {cell.place: cell for cell in group}
            for cases, dtypes, checks in blocks(group[0].spec, by_place):
                inside = [c for p, c in by_place.items() if p[0] in cases and p[1] in dtypes and p[2] in checks]
                run = Run(number := number + 1, inside)
                self._runs.update({(id(cell.spec), cell): run for cell in inside})

    def report_of(self, cell: ParityCase) -> Report:
        """Return the report of a cell's run; the first call for a run makes it.

        Raises SpecError if the reference fails, or the data of a case cannot be right.
        """
        run = self._runs[id(cell.spec), cell]
        if run.error is not None:
            raise run.error.with_traceback(None)
        if run.report is None:
            try:
                run.report = self._make(run.cells) if self.folder is None else self._share(run, self.folder)
            except Exception as error:
                run.error = error
                raise
            self.reports.append(run.report)
        return run.report

    def _share(self, run: Run, folder: Path) -> Report:
        """Return the report that another worker made or is making, or make it for all workers."""
        path = folder / f"{run.number}.pickle"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                write_atomically(path, pickle.dumps(self._make(run.cells)))
            report: Report = pickle.loads(path.read_bytes())
        return report

    def _make(self, cells: Sequence[ParityCase]) -> Report:
        from eca_multi import parity

        first = cells[0]
        report = parity.run(
            first.spec,
            runners=[first.argument],
            cases=list(dict.fromkeys(cell.case for cell in cells)),
            dtypes=list(dict.fromkeys(cell.dtype for cell in cells)),
            checks=list(dict.fromkeys(cell.check for cell in cells)),
            require=[first.runner] if self.requires(first.runner) else [],
            strict=self.strict,
        )
        report.spec["source"] = first.source or first.spec.name
        return report

    def add(self, report: Report, test: str) -> None:
        """Add the report of two models that a test has compared itself."""
        report.spec["source"] = test
        if self.folder is None:
            self.reports.append(report)
        else:
            number = sum(1 for _ in self.folder.glob("*.pickle"))
            write_atomically(self.folder / f"{file_name(test)}-{number}.pickle", pickle.dumps(report))

    def gather(self, folder: Path) -> None:
        self.reports += [pickle.loads(path.read_bytes()) for path in sorted(folder.glob("*.pickle"))]

    def joined(self) -> list[Report]:
        groups: dict[tuple[str, ...], list[Report]] = {}
        for report in self.reports:
            key = tuple(str(report.spec.get(name)) for name in ("name", "source", "hash"))
            groups.setdefault(key, []).append(report)
        return [join(groups[key]) for key in sorted(groups)]

    def write(self, folder: Path) -> list[str]:
        """Write each specification's report as JSON, HTML and JUnit XML; return a text for each file that failed."""
        taken: list[str] = []
        faults: list[str] = []
        for report in self.joined():
            name = file_name(report.spec["name"])
            taken.append(name)
            name += f"-{taken.count(name)}" if taken.count(name) > 1 else ""
            plain = report.to_dict()
            for name_of_format, suffix in (("json", "json"), ("html", "html"), ("junit", "xml")):
                try:
                    text = FORMATS[name_of_format](plain)
                    write_atomically(folder / f"{name}.{suffix}", text.encode(errors="backslashreplace"))
                except (OSError, NotInstalled) as error:  # the other files and the summary may still succeed
                    faults.append(f"{folder / f'{name}.{suffix}'} could not be written: {error}")
        return faults


def join(reports: Sequence[Report]) -> Report:
    """Join several reports of one specification; if two disagree on a cell, the failure stays."""
    cells: dict[tuple[str, ...], Cell] = {}
    states: dict[str, RunnerState] = {}
    trajectories: dict[tuple[str, ...], Trajectory] = {}
    for report in reports:
        for cell in report.cells:
            key = cell.runner, cell.case, cell.dtype, cell.check, cell.tensor
            if key not in cells or cells[key].green:
                cells[key] = cell
        for state in report.runners:
            known = states.get(state.name)
            worse = state if known is None or known.state == "ran" else known
            fingerprint = state.fingerprint or (known.fingerprint if known else {})
            states[state.name] = replace(worse, fingerprint=fingerprint)
        for item in report.trajectories:
            trajectories[item.runner, item.case, item.dtype] = item
    joined = Report(
        list(states.values()),
        list(cells.values()),
        required=tuple(sorted({name for report in reports for name in report.required})),
        environment=reports[0].environment,
        spec={key: value for report in reports for key, value in report.spec.items()},
        cases=tuple({case["name"]: case for report in reports for case in report.cases}.values()),
        localisations=list({(x.runner, x.case, x.dtype): x for r in reports for x in r.localisations}.values()),
        trajectories=list(trajectories.values()),
        sight=list({(sight.case, sight.dtype): sight for report in reports for sight in report.sight}.values()),
        strict=any(report.strict for report in reports),
        replay=next((report.replay for report in reports if report.replay), ""),
    )
    joined.finish()
    return joined
