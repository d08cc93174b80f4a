"""The checks that run a layer more than once: the same twice, and the same compiled as eager."""

from dataclasses import replace

import pytest

from eca_multi import parity
from eca_multi.parity import Verdict
from tests.support.parity_runs import MUTANTS, QUICK, cli, quick
from tests.support.scale import SCALE, Drifting, Scale, WrongCompiled


@pytest.mark.slow
def test_a_layer_that_is_not_the_same_twice_fails_determinism_alone():
    runners = {"numpy": Scale, "numpy-drifting": Drifting}
    report = quick(replace(SCALE, runners=runners), checks=["forward", "determinism"])
    assert {(c.runner, c.check) for c in report.cells if c.verdict.disagrees} == {("numpy-drifting", "determinism")}
    assert {c.verdict for c in report.cells if (c.runner, c.check) == ("numpy", "determinism")} == {Verdict.BITWISE}


@pytest.mark.slow
def test_a_mutant_that_is_not_the_same_twice_is_caught_where_gates_are_small():
    """A billionth, which is below half a unit of all but the smallest gates."""
    done = cli("--runner", f"{MUTANTS}:Random", *QUICK[:2], "--case", "saturated", "--check", "determinism")
    assert done.exit_code == 1
    assert "FAIL mutants:Random float32 saturated determinism y: EXCEEDS_BUDGET" in done.output


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    spec = replace(SCALE, runners={"keras-tensorflow": WrongCompiled})
    return quick(spec, checks=["forward", "compiled"], bundles=tmp_path_factory.mktemp("compiled") / "bundles")


@pytest.mark.slow
def test_what_fails_compiled_alone_says_so(compiled):
    assert {(c.check, c.verdict.green) for c in compiled.compared} == {("forward", True), ("compiled", False)}
    [one] = compiled.localisations
    assert one.line.endswith("first divergence: none when run eagerly: compiling changes the result")


@pytest.mark.slow
def test_a_replay_of_what_fails_compiled_fails_too(compiled):
    assert parity.replay(compiled.localisations[0].bundle, trust=True).exit_code == 1
