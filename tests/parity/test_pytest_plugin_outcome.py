"""What the pytest plugin makes of a report: each outcome of a test by hand, and one run of pytest with all of them.

test_pytest_plugin.py has the rest, in runs of pytest of their own, which are slow.
"""

from pathlib import Path

import pytest

from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.compare import Judgement, Verdict
from eca_multi.parity.pytest.marks import ParityCase
from eca_multi.parity.pytest.outcome import outcome
from eca_multi.parity.pytest.results import Results
from eca_multi.parity.report.report import Report
from tests.support import misfortunes

pytest_plugins = ["pytester"]


class Made(Results):
    """Results whose report was made by hand."""

    def report_of(self, cell):
        return self.reports[0]


def outcome_of(*verdicts, state="ran", required=(), strict=False):
    case = ParityCase("numpy", "small", "float32", "forward", misfortunes.SPEC, "numpy", "layers.py:SPEC")
    cells = [
        Cell("numpy", "small", "float32", "forward", f"y{i}", Judgement(v, 0.5 if v.green else 3.0), reason="why")
        for i, v in enumerate(verdicts)
    ]
    # Of another test, whose failure is not this one's.
    other = Cell("numpy", "small", "float32", "input_grad", "dx", Judgement(Verdict.EXCEEDS_BUDGET, 9.0))
    results = Made(required=tuple(required), strict=strict)
    results.reports.append(Report([RunnerState("numpy", state, "said why")], [*cells, other]))
    return outcome(results, case, "test_it.py::test_scale")


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict.green])
def test_what_is_green_passes(verdict):
    found = outcome_of(verdict)
    assert (found.skip, found.crash, found.error, found.verdict) == ("", "", None, verdict.value)
    assert dict(found.properties) == {"verdict": verdict.value, "budget_use": "0.5"}


@pytest.mark.parametrize(
    "verdict", [v for v in Verdict if not v.green and v not in (Verdict.UNSUPPORTED, Verdict.ROUNDING)]
)
def test_what_is_not_fails(verdict):
    found = outcome_of(Verdict.BITWISE, verdict)
    assert isinstance(found.error, AssertionError if verdict.disagrees else RuntimeError)
    assert f"numpy float32 small y1: {verdict.value}" in str(found.error)
    assert found.verdict == verdict.value


def test_rounding_is_expected_to_fail_and_fails_where_the_run_is_strict():
    found = outcome_of(Verdict.BITWISE, Verdict.ROUNDING)
    assert (found.error, found.skip, found.verdict) == (None, "", "ROUNDING")
    assert "numpy float32 small y1: ROUNDING" in found.rounding
    assert isinstance(outcome_of(Verdict.BITWISE, Verdict.ROUNDING, strict=True).error, AssertionError)
    assert isinstance(outcome_of(Verdict.ROUNDING, Verdict.EXCEEDS_BUDGET).error, AssertionError)


def test_what_cannot_be_done_is_skipped():
    assert outcome_of(Verdict.UNSUPPORTED).skip == "numpy forward: why"
    assert "nothing to compare" in outcome_of().skip


def test_a_runner_that_did_not_run():
    assert outcome_of(state="unavailable").skip == "numpy: said why"
    assert "said why (--parity-require)" in str(outcome_of(state="unavailable", required=["numpy"]).error)
    for state in ("crashed", "timed out"):
        assert outcome_of(state=state).crash == f"numpy {state}: said why"
        assert outcome_of(Verdict.BITWISE, state=state).crash == ""


def test_a_run_of_pytest_with_one_of_each(pytester, monkeypatch):
    """A right layer passes, a wrong one fails with its evidence, an absent one is skipped."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "200")
    spec = f"{Path(__file__).parents[1].joinpath('support', 'misfortunes.py')}:SPEC"
    names = ["numpy", "numpy-wrong", "absent"]
    pytester.makepyfile(
        "import pytest\n\n"
        f"@pytest.mark.parity({spec!r}, {names}, dtypes=['float32'], checks=['forward'])\n"
        "def test_scale(parity):\n    parity()\n"
    )
    options = (
        "-p",
        "eca_multi._pytest_plugin",
        "-p",
        "no:cacheprovider",
        "--strict-markers",
        "-W",
        "error",
        "-rs",
    )
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.re_match_lines_random(
        [
            r".*ParityError: numpy-wrong float32 small y: EXCEEDS_BUDGET, \S+ x the budget at .*",
            r".*absent: no_such_package not installed; .*",
        ]
    )
