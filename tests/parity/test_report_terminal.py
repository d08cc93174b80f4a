"""What the terminal shows of a report: the outcome, the counts, and a comparison that fits the width whole."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from eca_multi._terminal import Terminal
from eca_multi.cli.main import app
from eca_multi.parity.define.checks import TABLE
from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.compare import Judgement, Verdict
from eca_multi.parity.report.report import Report
from eca_multi.parity.report.terminal import print_list, render

NAME = "backbone.stage3.block11.attention.excitation.conv.weight"
GREEN = Judgement(Verdict.WITHIN_BUDGET, 0.5)


def shown(show, width=200):
    console = Terminal(file=io.StringIO(), width=width)
    show(console)
    return console.file.getvalue()


def report_of(cells, **state):
    environment = dict.fromkeys(("python", "platform", "processor"), "any")
    return Report(
        [RunnerState("torch", **state)], cells, environment=environment, spec={"budget": "analytic", "c": 2.0}
    )


def cells(judgement, number=1, **rest):
    return [Cell("torch", f"c{n}", "float32", "forward", "y", judgement, **rest) for n in range(number)]


def test_what_has_no_result_is_said():
    raised = Judgement(Verdict.ERROR)
    report = report_of([*cells(GREEN, 40, budget="analytic"), *cells(raised, 3, reason="it raised")], unanswered=1)
    text = shown(lambda console: render(report, console, 2.0))
    end = "40 of 44 tensors within budget, 4 without a result, 1 of 1 runners ran. 2 s."
    assert text.splitlines()[-1] == f"A runner raised, crashed or timed out: {end}"


def test_a_run_without_faults_says_nothing_of_results():
    text = shown(lambda console: render(report_of(cells(GREEN, budget="analytic")), console, 2.0))
    assert text.splitlines()[-1] == "All agree: 1 of 1 tensors within budget, 1 of 1 runners ran. 2 s."


def test_failures_stand_with_the_worst_first():
    judged = [Judgement(Verdict.EXCEEDS_BUDGET, use, (1, 2), "1", "3") for use in (2.0, 30.0)]
    red = [cell for judgement in judged for cell in cells(judgement, budget="analytic")]
    report = report_of([replace(cell, tensor=name) for cell, name in zip(red, ("y", "z"), strict=True)])
    text = shown(lambda console: render(report, console, 2.0))
    failures = re.findall(
        r"FAIL torch float32 c0 (.): EXCEEDS_BUDGET, (\S+) x the budget at \[1, 2\]: expected 1", text
    )
    assert failures == [("z", "30.0"), ("y", "2.00")]


def test_one_cause_is_one_line():
    red = cells(Judgement(Verdict.EXCEEDS_BUDGET, 3.0, (1, 2), "1", "3"), 94, budget="analytic")
    text = shown(lambda console: render(report_of(red), console, 2.0))
    assert text.count("FAIL") == 1
    assert "93 more tensors of the same cause (y in 94 cases and float32)." in text


def test_rounding_is_apart_from_what_fails_and_the_exit_status():
    off = Judgement(Verdict.ROUNDING, 7.0, (1,), "800", "256")
    report = report_of([*cells(GREEN, 2, budget="analytic"), *cells(off, budget="stochastic", blame="known: a fact")])
    text = shown(lambda console: render(report, console, 2.0))
    assert "FAIL" not in text
    assert "ROUNDING known: a fact: 1 tensor of torch; worst: torch float32 c0 y: ROUNDING, 7.00 x the budget" in text
    assert "All agree: 2 of 3 tensors within budget, 1 off by a framework's rounding" in text
    assert report.exit_code == 0
    strict = replace(report, strict=True)
    assert strict.exit_code == 1
    assert "A framework's rounding is over the budget" in shown(lambda console: render(strict, console, 2.0))


def test_taps_without_an_answer_are_one_line_and_do_not_count():
    blind = Judgement(Verdict.INCONCLUSIVE)
    taps = [replace(cell, check="taps", tensor="gate") for cell in cells(blind, 3, budget="stochastic")]
    report = report_of([*cells(GREEN, budget="stochastic"), *taps])
    text = shown(lambda console: render(report, console, 2.0))
    assert "inconclusive 3 taps without an answer (gate in float32): taps do not count for the exit status" in text
    assert text.count("inconclusive") == 1
    assert report.exit_code == 0
    asked = report_of([*cells(GREEN, budget="stochastic"), *cells(blind, 1, budget="stochastic")])
    assert asked.exit_code == 4  # the control: an output counts
    assert "taps do not" not in shown(lambda console: render(asked, console, 2.0))


def test_the_budget_nearest_to_its_reference_is_named():
    near = replace(GREEN, reach=2.5)
    text = shown(lambda console: render(report_of(cells(near, budget="analytic")), console, 2.0))
    assert (
        "Nearest to its reference, at the median element: float32 the budget is 1/2.5 of the reference (c0 y)." in text
    )


def test_reasons_of_what_is_unsupported_are_a_line_each():
    """A NumPy reference without gradients gave four lines for each runner."""
    reason = "the reference gives no gradients: it must be a TorchAdapter"
    left_out = [
        Cell(runner, "only", "float32", check, tensor, Judgement(Verdict.UNSUPPORTED), reason=reason)
        for runner in ("torch", "jax")
        for check, tensor in (("input_grad", "dx"), ("input_grad", "dx@ones"), ("weight_grad", "dw"))
    ]
    left_out.append(Cell("jax", "only", "float32", "compiled", "y", Judgement(Verdict.UNSUPPORTED), reason="another"))
    text = shown(lambda console: render(report_of([*cells(GREEN), *left_out]), console, 2.0))
    assert [line for line in text.splitlines() if line.startswith("unsupported")] == [
        f"unsupported input_grad, weight_grad of torch, jax: {reason}",
        "unsupported compiled of jax: another",
    ]


@pytest.fixture
def files(tmp_path):
    for name, shift in (("a", 0.0), ("b", 0.25)):
        save_file({NAME: np.full((2, 3), 1 + shift), "y": np.ones(3)}, tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.parametrize("columns", [30, 80, 300])
def test_a_comparison_loses_nothing_at_any_width(files, columns):
    command = ["parity", "compare", "--atol=0.1", *map(str, files)]
    done = CliRunner().invoke(app, command, env={"COLUMNS": str(columns)})
    assert done.exit_code == 1
    assert max(map(len, done.output.splitlines())) <= columns
    assert "…" not in done.output
    text = "".join(done.output.split())
    for part in (NAME, "EXCEEDS_BUDGET", "BITWISE", "0.25", "2.5", "[0,0]", "1for1.25"):
        assert part in text, part
    assert ("tensor" in done.output.splitlines()[0]) == (columns == 300), "a table where it fits"


def test_the_list_says_what_each_check_compares():
    text = shown(lambda console: print_list("eca", console))
    for check in TABLE:
        assert re.search(rf"check +{check.name} +{re.escape(check.compares)}", text), check.name
