"""What has no result is counted: a run in which a runner raised or ended must not look like a whole one."""

import pytest

from eca_multi import parity
from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.compare import Judgement, Verdict
from eca_multi.parity.report.report import Report
from tests.support import misfortunes


@pytest.fixture(scope="module")
def raised():
    """Two dtypes by two runners, one of which raises in float16."""
    return parity.run(
        misfortunes.SPEC, runners=["numpy", "numpy-raising"], dtypes=["float32", "float16"], checks=["forward"]
    )


def test_a_tensor_of_a_runner_that_raised_is_without_result(raised):
    (cell,) = [cell for cell in raised.cells if cell.is_without_result]
    assert (cell.runner, cell.dtype, cell.verdict) == ("numpy-raising", "float16", Verdict.ERROR)
    assert "no such kernel" in cell.reason
    assert (len(raised.compared), raised.without_result, raised.exit_code) == (3, 1, 3)
    assert raised.to_dict()["without_result"] == 1


def test_a_run_in_which_all_have_results_counts_none(raised):
    """A control: the same run, without the cells of the runner that raised."""
    whole = Report(raised.runners, [cell for cell in raised.cells if cell.runner == "numpy"])
    assert (len(whole.compared), whole.without_result, whole.exit_code) == (2, 0, 0)


@pytest.mark.parametrize(
    ("verdict", "budget", "count"),
    [
        (Verdict.ERROR, "", 1),
        (Verdict.INCONCLUSIVE, "", 1),  # the reference has died
        (Verdict.INCONCLUSIVE, "analytic", 0),  # compared, and the comparison says nothing
        (Verdict.UNSUPPORTED, "", 0),  # the adapter says that it cannot
        (Verdict.EXCEEDS_BUDGET, "analytic", 0),
        (Verdict.WITHIN_BUDGET, "analytic", 0),
    ],
)
def test_which_verdicts_are_without_result(verdict, budget, count):
    cell = Cell("numpy", "offsets", "float32", "forward", "y", Judgement(verdict), budget)
    assert Report([RunnerState("numpy")], [cell]).without_result == count


def test_tensors_of_a_process_that_ended_are_counted():
    assert Report([RunnerState("numpy", "crashed", unanswered=5), RunnerState("torch")]).without_result == 5
