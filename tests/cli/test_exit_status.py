"""The exit status of a report: made by hand for each outcome, and from runs whose runners suffer it."""

from dataclasses import replace

import pytest

from eca_multi import parity
from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.compare import Judgement, Verdict
from eca_multi.parity.report.report import ParityError, Report
from tests.support import misfortunes

GREEN = (Verdict.BITWISE, Verdict.WITHIN_BUDGET)
DISAGREE = (
    Verdict.EXCEEDS_BUDGET,
    Verdict.NONFINITE_MISMATCH,
    Verdict.SHAPE_MISMATCH,
    Verdict.DTYPE_MISMATCH,
    Verdict.MISSING_TAP,
)


def report(*verdicts, states=("ran",), required=()):
    """A report of one cell for each verdict, by runners r0, r1, ... in these states."""
    runners = [RunnerState(f"r{number}", state, "why" * (state != "ran")) for number, state in enumerate(states)]
    cells = [
        Cell("r0", "case", "float32", "forward", f"y{number}", Judgement(verdict), reason="why" * (not verdict.green))
        for number, verdict in enumerate(verdicts)
    ]
    return Report(runners, cells, required=tuple(required))


STATUS = [
    *((report(verdict), 0) for verdict in GREEN),
    *((report(verdict), 1) for verdict in DISAGREE),
    *((report(*GREEN, verdict), 1) for verdict in DISAGREE),
    (report(Verdict.ERROR), 3),
    (report(*GREEN, Verdict.ERROR), 3),
    (report(Verdict.EXCEEDS_BUDGET, Verdict.ERROR), 1),
    (report(Verdict.INCONCLUSIVE), 4),
    (report(*GREEN, Verdict.INCONCLUSIVE), 4),
    (report(Verdict.INCONCLUSIVE, Verdict.ERROR), 3),
    (report(Verdict.INCONCLUSIVE, Verdict.EXCEEDS_BUDGET), 1),
    (report(*GREEN, Verdict.ROUNDING), 0),
    (report(Verdict.ROUNDING), 0),
    (replace(report(*GREEN, Verdict.ROUNDING), strict=True), 1),
    (report(Verdict.ROUNDING, Verdict.EXCEEDS_BUDGET), 1),
    (report(Verdict.ROUNDING, Verdict.INCONCLUSIVE), 4),
    (report(), 4),
    (report(Verdict.UNSUPPORTED), 4),
    (report(Verdict.UNSUPPORTED, *GREEN), 0),
    (report(*GREEN, states=("ran", "crashed")), 3),
    (report(*GREEN, states=("ran", "timed out")), 3),
    (report(*GREEN, states=("ran", "unavailable")), 0),
    (report(*GREEN, states=("ran", "unavailable"), required=["r1"]), 1),
    (report(*GREEN, states=("ran", "unavailable"), required=["r0"]), 0),
    (report(*GREEN, states=("timed out", "unavailable"), required=["r1"]), 1),
]


def label(item):
    made, _ = item
    parts = [cell.verdict.value for cell in made.cells] + [r.state for r in made.runners] + list(made.required)
    return "-".join(parts).replace(" ", "-")


@pytest.mark.parametrize(("made", "status"), STATUS, ids=map(label, STATUS))
def test_each_outcome_has_its_status(made, status):
    assert made.exit_code == status
    assert made.to_dict()["exit_code"] == status
    if status == 0:
        made.raise_for_status()
    elif status == 1:
        with pytest.raises(ParityError, match=r"why|y0"):
            made.raise_for_status()
    else:
        with pytest.raises(RuntimeError, match=r"why|nothing was compared"):
            made.raise_for_status()


def test_every_verdict_is_in_the_table():
    assert {cell.verdict for made, _ in STATUS for cell in made.cells} == set(Verdict)


# --- from runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suffered():
    """One run with a right runner, one that says nothing, and one that is not installed."""
    runners = ["numpy", "numpy-silent", "absent"]
    return parity.run(
        misfortunes.SPEC, runners=runners, dtypes=["float32"], checks=["forward"], timeout=6, require=["numpy"]
    )


def test_a_runner_that_says_nothing_is_timed_out(suffered):
    states = {state.name: state for state in suffered.runners}
    assert states["numpy"].state == "ran"
    assert states["numpy-silent"].state == "timed out"
    assert "said nothing for 6 s" in states["numpy-silent"].detail
    assert "last words" in states["numpy-silent"].detail
    assert suffered.exit_code == 3
    assert (states["numpy-silent"].unanswered, states["numpy"].unanswered) == (1, 0)
    assert suffered.without_result == 1


def test_it_costs_no_other_runner(suffered):
    verdicts = {(cell.runner, cell.verdict.green) for cell in suffered.compared}
    assert verdicts == {("numpy", True)}


def test_a_missing_runner_counts_only_where_it_is_required(suffered):
    assert [state.name for state in suffered.runners if state.state == "unavailable"] == ["absent"]
    assert suffered.missing == []
    options = {"dtypes": ["float32"], "checks": ["forward"]}
    required = parity.run(misfortunes.SPEC, runners=["absent"], require=["absent"], **options)
    assert [state.name for state in required.missing] == ["absent"]
    assert required.exit_code == 1
    with pytest.raises(ParityError, match="absent: no_such_package not installed"):
        required.raise_for_status()
    assert parity.run(misfortunes.SPEC, runners=["absent"], **options).exit_code == 4


def test_a_case_that_kills_no_mutant_is_inconclusive():
    """Through `run`, with workers, so that the way from mutants to the exit status is walked."""
    report = parity.run(misfortunes.POWER, runners=["numpy"], dtypes=["float32"], checks=["forward", "power"])
    killed = {power.case: power.killed for power in report.power}
    assert killed["powerless"] == ()
    assert "kernel flip" in killed["telling"]
    verdicts = {cell.case: cell.verdict for cell in report.cells if cell.check == "forward"}
    assert verdicts["powerless"] is Verdict.INCONCLUSIVE
    assert verdicts["telling"].green
    assert report.exit_code == 4
    with pytest.raises(RuntimeError, match="this case kills no mutant: a wrong layer would pass it too"):
        report.raise_for_status()
