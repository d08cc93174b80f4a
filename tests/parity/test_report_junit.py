"""The JUnit report: what was not shown to be right is never a passed test, and the counts are right."""

import copy
import re
from xml.etree import ElementTree as ET

import pytest

from eca_multi.parity.report.junit import to_junit
from tests.support import report_fixture
from tests.support.report_fixture import HOSTILE

REPORT = report_fixture.make()
OUTCOMES = ("failure", "error", "skipped")


def parse(report):
    return ET.fromstring(to_junit(report).encode())


def outcomes(root):
    """Each test's outcome ("" if it passed) by the name of its suite and its own."""
    return {
        (case.get("classname"), case.get("name")): next((kind for kind in OUTCOMES if case.find(kind) is not None), "")
        for case in root.iter("testcase")
    }


def one(verdict, **rest):
    """A report of one tensor."""
    row = {
        "runner": "torch",
        "case": "offsets",
        "dtype": "float32",
        "check": "forward",
        "tensor": "y",
        "verdict": verdict,
    }
    return {
        "exit_code": 0,
        "spec": {"name": "ECA"},
        "runners": [{"name": "torch", "state": "ran"}],
        "results": [row | rest],
    }


def test_one_suite_for_each_runner_in_their_order():
    suites = [suite.get("name") for suite in parse(REPORT).findall("testsuite")]
    assert suites == [f"parity.ECA.{name}" for name in (*report_fixture.RUNNERS, "cannot-see")]


def test_one_test_for_each_case_dtype_and_check():
    expected = {
        (f"parity.ECA.{row['runner']}", f"{row['case']}-{row['dtype']}-{row['check']}") for row in REPORT["results"]
    }
    found = outcomes(parse(REPORT))
    unrun = {("parity.ECA.keras-tensorflow", "runner"), ("parity.ECA.torch-compiled", "runner")}
    blind = {("parity.ECA.cannot-see", f"{s['case']}-{s['dtype']}") for s in REPORT["sight"] if s["unseen"]}
    assert set(found) == expected | unrun | blind
    assert len(list(parse(REPORT).iter("testcase"))) == len(found), "a name is used twice"


def test_what_a_case_cannot_see_is_a_skipped_test_and_no_passed_one():
    marks = {c.get("name"): c.find("skipped") for c in parse(REPORT).iter("testcase") if "cannot" in c.get("classname")}
    assert marks["offsets-bfloat16"].get("message") == "this dtype and case cannot see: n - 1"
    assert marks["saturated-float16"].get("message") == "this dtype and case cannot see: eps, n - 1"
    assert not any("float32" in name for name in marks)


def check_counts(root):
    for suite in root.findall("testsuite"):
        cases = suite.findall("testcase")
        assert int(suite.get("tests")) == len(cases), suite.get("name")
        for kind, name in zip(OUTCOMES, ("failures", "errors", "skipped"), strict=True):
            assert int(suite.get(name)) == sum(case.find(kind) is not None for case in cases), suite.get("name")
    for name in ("tests", "failures", "errors"):
        assert int(root.get(name)) == sum(int(suite.get(name)) for suite in root), name


def test_the_counts_are_those_of_the_tests():
    root = parse(REPORT)
    check_counts(root)
    assert (root.get("failures"), root.get("errors")) == ("11", "3")


@pytest.mark.parametrize("name", ["tests", "failures", "errors", "skipped"])
def test_a_wrong_count_would_be_found(name):
    root = parse(REPORT)
    root.find("testsuite").set(name, "7")
    with pytest.raises(AssertionError, match=r"parity\.ECA\.torch"):
        check_counts(root)


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        ("BITWISE", ""),
        ("WITHIN_BUDGET", ""),
        ("EXCEEDS_BUDGET", "failure"),
        ("NONFINITE_MISMATCH", "failure"),
        ("SHAPE_MISMATCH", "failure"),
        ("DTYPE_MISMATCH", "failure"),
        ("MISSING_TAP", "failure"),
        ("UNSUPPORTED", "skipped"),
        ("INCONCLUSIVE", "skipped"),
        ("ERROR", "error"),
        ("A_VERDICT_OF_TOMORROW", "failure"),
        (None, "failure"),
    ],
)
def test_each_verdict_has_its_outcome(verdict, outcome):
    assert outcomes(parse(one(verdict)))["parity.ECA.torch", "offsets-float32-forward"] == outcome


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        (["BITWISE", "INCONCLUSIVE"], "skipped"),
        (["UNSUPPORTED", "ERROR"], "error"),
        (["ERROR", "EXCEEDS_BUDGET", "BITWISE"], "failure"),
    ],
)
def test_a_test_is_as_good_as_its_worst_tensor(verdicts, outcome):
    report = one("BITWISE")
    report["results"] = [{**report["results"][0], "tensor": f"t{n}", "verdict": v} for n, v in enumerate(verdicts)]
    assert set(outcomes(parse(report)).values()) == {outcome}


def test_a_failure_says_which_tensors_where_and_by_how_much():
    case = next(
        case
        for case in parse(REPORT).iter("testcase")
        if (case.get("classname"), case.get("name")) == ("parity.ECA.linen", "offsets-bfloat16-weight_grad")
    )
    failure = case.find("failure")
    assert failure.get("type") == "EXCEEDS_BUDGET"
    assert failure.get("message").startswith("dw: EXCEEDS_BUDGET, 51.2 x the budget at [1]: expected ")
    assert [line.split(":")[0] for line in failure.text.splitlines()] == ["dw", "dw@ones"]
    assert "passes from c = 102" in failure.text


def test_an_error_shows_the_whole_traceback_and_its_last_line_as_the_message():
    error = next(e for e in parse(REPORT).iter("error") if "nnx" in e.get("message"))
    assert error.get("message").startswith("y: ERROR: RuntimeError: <nnx> could not & would not")
    assert report_fixture.TRACEBACK in error.text


def test_a_tolerance_set_by_hand_is_called_that():
    report = one("EXCEEDS_BUDGET", budget="manual", budget_use=3.0)
    assert "3.00 x the tolerance set by hand" in next(parse(report).iter("failure")).get("message")


@pytest.mark.parametrize(
    ("state", "required", "outcome"),
    [
        ("unavailable", [], "skipped"),
        ("unavailable", ["torch"], "failure"),
        ("crashed", [], "error"),
        ("timed out", ["torch"], "error"),
    ],
)
def test_a_runner_that_did_not_run_is_a_test(state, required, outcome):
    runner = {"name": "torch", "state": state, "detail": "why\nand how"}
    root = parse({"exit_code": 0, "spec": {"name": "ECA"}, "runners": [runner], "required": required})
    assert outcomes(root) == {("parity.ECA.torch", "runner"): outcome}
    mark = root.find(f".//{outcome}")
    assert mark.text == "why\nand how"
    assert mark.get("message") == f"torch: {'required, but ' if outcome == 'failure' else ''}{state}"


def test_a_required_runner_that_the_report_does_not_know_is_a_failure():
    assert outcomes(parse({"exit_code": 1, "required": ["torch"]})) == {("parity.spec.torch", "runner"): "failure"}


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({}, "No outcome is recorded"),
        ({"exit_code": 4}, "Nothing was compared"),
        (one("BITWISE") | {"exit_code": 3}, "A runner raised, crashed or timed out"),
        (one("INCONCLUSIVE") | {"exit_code": 4}, "A case is inconclusive"),
    ],
    ids=["empty", "nothing", "red", "inconclusive"],
)
def test_a_red_report_is_never_green_here(report, message):
    root = parse(report)
    assert root.get("errors") == "1"
    assert next(root.iter("error")).get("message") == message


def test_a_green_report_is_green():
    root = parse(report_fixture.agreeing())
    assert set(outcomes(root).values()) == {""}
    assert (root.get("failures"), root.get("errors")) == ("0", "0")


def test_versions_and_what_has_no_result_are_properties():
    suite = parse(REPORT).find("testsuite[@name='parity.ECA.nnx']")
    assert {p.get("name"): p.get("value") for p in suite.iter("property")} == {
        "flax": "0.12.1",
        "jax": "0.10.2",
        "jaxlib": "0.10.2",
        "state": "ran",
        "without_result": "6",
    }


ILLEGAL = "".join(map(chr, [0, 1, 8, 11, 12, 14, 31, 0xD800, 0xDFFF, 0xFFFE, 0xFFFF]))


@pytest.mark.parametrize(
    "text", [HOSTILE, ILLEGAL + "kept", "\t\n\U0001f642\u2260"], ids=["markup", "illegal", "legal"]
)
def test_hostile_text_survives_and_what_xml_cannot_hold_is_written_as_in_python(text):
    report = one("ERROR", case=text, reason=text) | {"spec": {"name": text}}
    report["runners"] = [{"name": "torch", "state": "crashed", "detail": text, "versions": {text: text}}]
    kept = re.sub(f"[{re.escape(ILLEGAL)}\x1b\u202e]", lambda found: ascii(found[0])[1:-1], text)
    root = parse(report)
    assert root.find(".//testcase").get("name") == f"{kept}-float32-forward"
    assert kept.strip() in root.find(".//error").text
    assert root.find("testsuite").get("name") == f"parity.{kept}.torch"


def test_equal_reports_give_equal_text_and_stay_as_they_are():
    report = copy.deepcopy(REPORT)
    assert to_junit(report) == to_junit(REPORT)
    assert report == REPORT
