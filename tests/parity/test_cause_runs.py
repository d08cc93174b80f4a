"""A run of a network and its ports in another layout: the right stage is named, and the cause, in every report."""

import json
import re
from dataclasses import replace

import pytest

from eca_multi import parity
from eca_multi.parity.report.html import to_html
from tests.support import scale, staged
from tests.support.parity_runs import quick

pytestmark = pytest.mark.slow  # processes of two frameworks


@pytest.fixture(scope="module")
def report():
    checks = ["forward", "input_grad", "weight_grad", "taps"]
    return parity.run(staged.SPEC, dtypes=["float32"], checks=checks)


def test_a_right_port_of_another_layout_agrees_at_every_tap(report):
    cells = [cell for cell in report.cells if cell.runner == "jax"]
    assert {cell.tensor for cell in cells if cell.check == "taps"} >= {"one", "two", "three", "d_one"}
    assert all(cell.green for cell in cells), [cell for cell in cells if not cell.green]


def test_the_stage_with_the_fault_is_the_culprit_and_its_cause_is_named(report):
    [one] = report.localisations
    assert (one.runner, one.culprit) == ("jax-same", "three")
    assert re.match(r"matches the reference if padding is SAME's .* \(\S+ of the budget\)", one.cause)
    assert one.line.endswith(one.cause)
    taps = {stage["tap"]: stage for stage in one.chain}
    assert taps["one"]["propagated"] <= 1
    assert taps["two"]["isolated"] <= 1 < taps["three"]["isolated"]


def test_the_cause_is_in_every_report(report):
    [one] = report.localisations
    assert one.cause in json.loads(report.to_json())["localisations"][0]["cause"]
    assert {cell.cause for cell in report.cells if cell.tensor == "y" and cell.runner == "jax-same"} == {one.cause}
    assert {cell.cause for cell in report.cells if cell.green} == {""}
    with pytest.raises(parity.ParityError, match="matches the reference if padding is SAME's"):
        report.raise_for_status()
    assert "matches the reference if padding is SAME" in to_html(report.to_dict())


def test_a_result_that_changes_from_run_to_run_is_said():
    runners = {"numpy": scale.Dropping, "numpy-off": scale.Off}
    found = {one.runner: one for one in quick(replace(scale.SCALE, runners=runners)).localisations}
    said = "its result changes from run to run: dropout is left on, or another operation draws random numbers"
    assert found["numpy"].cause == said
    assert found["numpy"].line.endswith(said)
    assert found["numpy-off"].cause == ""
