"""A report as its reader sees it: the outcome, the counts, the matrix, the failures, and what explains them."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from eca_multi.parity.define.checks import CHECKS
from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.define.runners import REFERENCE
from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.judge.power import Power
from eca_multi.parity.judge.sight import Sight

from .causes import Cause, causes, some
from .elements import Profile, read_profile
from .localised import Localised, read_localised
from .reading import Row, in_order, mapping, names, number, ranking, read, rows, text
from .results import Group, Result, read_result, worst_first
from .sight import read_blind
from .training import Training, read_trainings
from .wording import count


class View:
    """The view of one report.

    Args:
        report: The JSON report, schema 2: `Report.to_dict()`, or what was read from a file.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.report = report
        self.exit_code = report.get("exit_code")
        self.spec = mapping(report, "spec")
        self.name = text(self.spec, "name")
        self.environment = mapping(report, "environment")
        self.required = names(report, "required")
        self.cases = [(text(case, "name"), text(case, "why")) for case in rows(report, "cases")]
        self.runners = [_runner(row) for row in rows(report, "runners")]
        self.results = [read_result(row) for row in rows(report, "results")]
        self.localisations: list[Localised] = [read_localised(row) for row in rows(report, "localisations")]
        self.power = [read(Power, row) for row in rows(report, "power")]
        self.sights = [read(Sight, row) for row in rows(report, "sight")]
        self.replay = text(report, "replay")
        self.strict = report.get("strict") is True

    @property
    def agrees(self) -> bool:
        return self.exit_code == 0

    @property
    def outcome(self) -> str:
        if self.agrees:
            return "All agree"
        if self.exit_code not in (1, 3, 4):
            return "No outcome is recorded"
        reasons = {
            "They do not agree": self.exit_code == 1 and (self.disagreements or not (self.missing or self.rounding)),
            "A framework's rounding is over the budget": self.exit_code == 1 and self.strict and self.rounding,
            "A required runner is missing": self.missing,
            "A runner raised, crashed or timed out": self.exit_code == 3,
            "A case is inconclusive": self.inconclusive,
            "Nothing was compared": self.exit_code == 4 and not self.inconclusive,
        }
        return ". ".join(words for words, holds in reasons.items() if holds)

    @property
    def counts(self) -> list[str]:
        """How many tensors are within budget, how many have no result, and how many runners ran."""
        green = sum(result.is_green for result in self.results)
        missing, rounding = self.without_result, len(self.rounding)
        parts = [f"{green} of {green + len(self.disagreements) + rounding + missing} tensors within budget"]
        parts += [f"{rounding} off by a framework's rounding"] if rounding else []
        parts += [f"{missing} without a result"] if missing else []
        asked = [name for name in self.runner_names if name != REFERENCE]  # a reference that has died is a runner too
        return [*parts, f"{len(self.ran)} of {len(asked)} runners ran"]

    @property
    def without_result(self) -> int:
        """The number of tensors that were asked for and not judged, because a process raised or ended."""
        return sum(map(self.without_result_of, self.runner_names))

    def without_result_of(self, runner: str) -> int:
        unanswered = sum(item.unanswered for item in self.runners if item.name == runner)
        return unanswered + sum(result.is_without_result for result in self.results if result.runner == runner)

    @property
    def disagreements(self) -> list[Result]:
        return [result for result in self.results if result.fails and not result.is_without_result]

    @property
    def rounding(self) -> list[Result]:
        """The results that are off by the rounding of a framework."""
        return [result for result in self.results if result.is_rounding]

    @cached_property
    def rounding_reasons(self) -> dict[str, list[Result]]:
        """The same by whose rounding it is, the worst first."""
        reasons: dict[str, list[Result]] = {}
        for result in worst_first(self.rounding):
            reasons.setdefault(result.blame, []).append(result)
        return reasons

    @cached_property
    def causes(self) -> list[Cause]:
        """The failures, one entry for each cause, in the order of the runners."""
        return [c for failed in self.failures.values() for c in causes(failed, self.localisations)]

    @cached_property
    def reach(self) -> dict[tuple[str, str], Result]:
        """By check and dtype the result whose budget lies nearest to its reference, out of those that were judged.

        A gradient counts by the cotangent under which its budget lies lower, as it does for its verdict.
        """
        pairs: dict[tuple[str, ...], Result] = {}
        for result in self.results:
            pair = result.check, result.dtype, result.case, result.tensor.removesuffix("@ones")
            if result.reach is not None and (pair not in pairs or result.reach > (pairs[pair].reach or 0.0)):
                pairs[pair] = result
        least: dict[tuple[str, str], Result] = {}
        for (check, dtype, *_), result in pairs.items():
            if (key := (check, dtype)) not in least or (result.reach or 0.0) < (least[key].reach or 0.0):
                least[key] = result
        return least

    @cached_property
    def reaches(self) -> dict[tuple[str, str, str, str], float]:
        """The reach of every budget, by case, dtype, check and tensor: it is the same for all runners."""
        return {(r.case, r.dtype, r.check, r.tensor): r.reach for r in self.results if r.reach is not None}

    @property
    def inconclusive(self) -> list[Result]:
        """The results that make the run inconclusive: not the taps that were judged without an answer."""
        return [result for result in self.results if result.verdict == "INCONCLUSIVE" and not result.is_open_tap]

    @property
    def open_taps(self) -> str:
        """Say how many taps were judged without an answer, and that they do not count; "" for none."""
        taps = [result for result in self.results if result.is_open_tap]
        names, dtypes = some([tap.tensor for tap in taps]), in_order((tap.dtype for tap in taps), DTYPES)
        said = f"{count(len(taps), 'tap')} without an answer ({names} in {', '.join(dtypes)})"
        return f"{said}: taps do not count for the exit status, the results that they lead to do" if taps else ""

    @property
    def undecided(self) -> list[Result]:
        """The results that are neither right nor wrong, and were judged."""
        return [result for result in self.results if result.is_open and not result.is_without_result]

    @property
    def missing(self) -> list[str]:
        return [name for name in self.required if self.state_of(name) == "unavailable"]

    @property
    def ran(self) -> list[str]:
        """The runners that ran: not those that raised wherever they were asked."""
        raised = {r.runner for r in self.results} - {r.runner for r in self.results if r.verdict != "ERROR"}
        states = {runner.name: runner.state for runner in self.runners if runner.name != REFERENCE}
        return [name for name, state in states.items() if state == "ran" and name not in raised]

    def state_of(self, runner: str) -> str:
        states = {item.name: item.state for item in self.runners}
        return states.get(runner, "ran" if runner in self.runner_names else "unavailable")

    def detail_of(self, runner: str) -> str:
        return next((item.detail for item in self.runners if item.name == runner), "")

    @cached_property
    def runner_names(self) -> list[str]:
        """The runners in the order in which they were asked for, then any others that have results."""
        others = sorted({result.runner for result in self.results})
        return list(dict.fromkeys([*(runner.name for runner in self.runners), *others]))

    @cached_property
    def columns(self) -> dict[str, list[str]]:
        """The dtypes of each check that was compared."""
        checks = in_order((result.check for result in self.results), CHECKS)
        return {check: self.dtypes(check) for check in checks}

    def dtypes(self, *checks: str) -> list[str]:
        """Return the dtypes of some checks, or of all."""
        return in_order((result.dtype for result in self.results if not checks or result.check in checks), DTYPES)

    @cached_property
    def cells(self) -> dict[tuple[str, str, str], Group]:
        """The matrix: the results of each runner, check and dtype."""
        cells: dict[tuple[str, str, str], list[Result]] = {}
        for result in self.results:
            cells.setdefault((result.runner, result.check, result.dtype), []).append(result)
        return {key: Group(results) for key, results in cells.items()}

    def checks_of(self, runner: str) -> list[str]:
        return [check for check in self.columns if any((runner, check, d) in self.cells for d in self.columns[check])]

    def group(self, runner: str, dtype: str, checks: Iterable[str]) -> Group | None:
        """Return the results of a runner in a dtype and some checks; None where there are none."""
        groups = [self.cells[key] for check in checks if (key := (runner, check, dtype)) in self.cells]
        return Group([result for group in groups for result in group.results]) if groups else None

    @cached_property
    def failures(self) -> dict[str, list[Result]]:
        """The results of each runner that fail, the worst first."""
        failed = {name: [r for r in self.results if r.runner == name and r.fails] for name in self.runner_names}
        return {name: worst_first(results) for name, results in failed.items() if results}

    @property
    def open_reasons(self) -> dict[tuple[str, str], list[Result]]:
        """The results that are neither right nor wrong, by verdict and reason."""
        reasons: dict[tuple[str, str], list[Result]] = {}
        for result in self.results:
            if result.is_open:
                reasons.setdefault((result.verdict, result.reason), []).append(result)
        return dict(sorted(reasons.items()))

    @cached_property
    def profiles(self) -> list[Profile]:
        """The tensors of which the report holds single elements."""
        results = zip(self.results, rows(self.report, "results"), strict=True)
        return [read_profile(result, mapping(row, "profile")) for result, row in results if mapping(row, "profile")]

    @cached_property
    def trainings(self) -> list[Training]:
        trainings = read_trainings(rows(self.report, "trajectories"), ranking(self.runner_names))
        case, dtype = ranking(name for name, _ in self.cases), ranking(DTYPES)
        return sorted(trainings, key=lambda item: (item.optimizer, case(item.case), dtype(item.dtype)))

    @cached_property
    def blind(self) -> list[str]:
        """What a dtype and case cannot see, and where that is not known."""
        case, dtype = ranking(name for name, _ in self.cases), ranking(DTYPES)
        lines = [blind.line for blind in read_blind(self.sights, case, dtype)]
        unknown = (sight for sight in self.sights if sight.reason)
        return lines + [f"{s.dtype} {s.case}: what it cannot see was not measured: {s.reason}" for s in unknown]

    @property
    def facts(self) -> dict[str, str]:
        """What the report says of the specification, the error model and the machine."""
        spec, machine = self.spec, self.environment
        names = sorted(machine, key=ranking(("python", "numpy", "platform", "processor")))
        c = number(spec, "c")
        known = {
            "Specification": " from ".join(part for part in (self.name, text(spec, "source")) if part),
            "Specification hash": text(spec, "hash"),
            "Layout": text(spec, "layout"),
            "Reference": text(spec, "reference"),
            "Budget": ", ".join(part for part in (text(spec, "budget"), f"c = {c:g}" if c else "") if part),
            **{"NumPy" if name == "numpy" else str(name).capitalize(): text(machine, name) for name in names},
            "Written by": text(self.report, "tool"),
        }
        return {name: value for name, value in known.items() if value}


def _runner(row: Row) -> RunnerState:
    unanswered = max(0, int(number(row, "unanswered") or 0))
    return read(RunnerState, row, state=text(row, "state") or "ran", unanswered=unanswered)
