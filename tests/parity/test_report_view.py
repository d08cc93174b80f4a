"""The one view of a report: its outcome, counts and worst cells, and the words in which all renderings say them."""

import pytest

from eca_multi.parity.report.view import View
from eca_multi.parity.report.view.wording import plain, power, use
from tests.support import report_fixture


def row(verdict, **rest):
    place = {"runner": "r", "case": "c", "dtype": "float32", "check": "forward", "tensor": "y"}
    return place | {"verdict": verdict, "budget": "analytic", "budget_use": 0.5} | rest


OUTCOMES = {
    "green": ({"exit_code": 0}, "All agree"),
    "red": ({"exit_code": 1, "results": [row("EXCEEDS_BUDGET")]}, "They do not agree"),
    "missing": ({"exit_code": 1, "required": ["torch"]}, "A required runner is missing"),
    "both": (
        {"exit_code": 1, "required": ["torch"], "results": [row("EXCEEDS_BUDGET")]},
        "They do not agree. A required runner is missing",
    ),
    "crash": ({"exit_code": 3}, "A runner raised, crashed or timed out"),
    "inconclusive": ({"exit_code": 4, "results": [row("INCONCLUSIVE")]}, "A case is inconclusive"),
    "nothing": ({"exit_code": 4}, "Nothing was compared"),
    "tomorrow": ({"exit_code": 7}, "No outcome is recorded"),
    "empty": ({}, "No outcome is recorded"),
}


@pytest.mark.parametrize(("report", "outcome"), OUTCOMES.values(), ids=OUTCOMES)
def test_the_outcome_in_words(report, outcome):
    assert View(report).outcome == outcome


COUNTS = {
    "all": ([row("BITWISE"), row("WITHIN_BUDGET")], 0, ["2 of 2 tensors within budget", "1 of 1 runners ran"]),
    "raised": (
        [row("WITHIN_BUDGET"), row("ERROR", budget="")],
        0,
        ["1 of 2 tensors within budget", "1 without a result", "1 of 1 runners ran"],
    ),
    "ended": (
        [row("WITHIN_BUDGET")] * 40,
        4,
        ["40 of 44 tensors within budget", "4 without a result", "1 of 1 runners ran"],
    ),
    "no reference": (
        [row("INCONCLUSIVE", budget="")],
        0,
        ["0 of 1 tensors within budget", "1 without a result", "1 of 1 runners ran"],
    ),
    "no power": ([row("INCONCLUSIVE")], 0, ["0 of 0 tensors within budget", "1 of 1 runners ran"]),
    "raised everywhere": (
        [row("ERROR", budget="")],
        0,
        ["0 of 1 tensors within budget", "1 without a result", "0 of 1 runners ran"],
    ),
}


@pytest.mark.parametrize(("results", "unanswered", "counts"), COUNTS.values(), ids=COUNTS)
def test_what_has_no_result_is_counted(results, unanswered, counts):
    runner = {"name": "r", "state": "ran", "unanswered": unanswered}
    assert View({"runners": [runner], "results": results}).counts == counts


def test_the_view_counts_as_the_report_does():
    report = report_fixture.make()
    view = View(report)
    assert view.without_result == sum(r["verdict"] == "ERROR" for r in report["results"]) == 6
    assert view.ran == [name for name in report_fixture.RUNNERS if name not in ("keras-tensorflow", "torch-compiled")]
    assert view.missing == ["keras-tensorflow"]


def test_failures_stand_by_runner_the_worst_first():
    results = [row("EXCEEDS_BUDGET", budget_use=use) for use in (2.0, None, 3.0)]
    report = {"runners": [{"name": "s"}, {"name": "r"}], "results": [*results, row("SHAPE_MISMATCH", runner="s")]}
    failures = View(report).failures
    assert list(failures) == ["s", "r"]
    assert [result.budget_use for result in failures["r"]] == [None, 3.0, 2.0]


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["BITWISE", "WITHIN_BUDGET"], "WITHIN_BUDGET"),
        (["WITHIN_BUDGET", "INCONCLUSIVE", "UNSUPPORTED"], "INCONCLUSIVE"),
        (["WITHIN_BUDGET", "UNSUPPORTED"], "WITHIN_BUDGET"),
        (["WITHIN_BUDGET", "A_VERDICT_OF_TOMORROW", "INCONCLUSIVE"], "A_VERDICT_OF_TOMORROW"),
    ],
)
def test_the_worst_result_speaks_for_its_cell(verdicts, worst):
    view = View({"results": [row(verdict) for verdict in verdicts]})
    assert view.group("r", "float32", ("forward", "compiled")).worst.verdict == worst
    assert view.group("r", "float16", ("forward",)) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "∞"),
        (0.0, "0"),
        (1e-9, "<0.01"),
        (0.434, "0.43"),
        (0.9999, "0.99"),
        (1.0, "1.00"),
        (1.0001, "1.01"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1180.0, "1180"),
        (9999.6, "1e4"),
        (3.2e40, "3e40"),
    ],
)
def test_rounding_never_carries_a_budget_use_over_the_limit(value, text):
    assert use(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "\u2013"), (0.0, "0"), (1234.5, "1234"), (0.0123456, "0.0123"), (3.4e-9, "3.40e-9")]
)
def test_three_digits(value, text):
    assert plain(value) == text


@pytest.mark.parametrize(
    ("base", "exponent", "text"), [(10, 0, "1"), (10, 1, "10"), (10, -4, "10⁻⁴"), (2, -9, "2⁻⁹"), (10, 308, "10³⁰⁸")]
)
def test_powers_have_raised_digits(base, exponent, text):
    assert power(base, exponent) == text
